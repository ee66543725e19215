"""What goes between processes: messages, their encoding, and what must agree before KV is shared."""
