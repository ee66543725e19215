"""KV on whatever device torch knows: gathered from pages, kept in arenas, moved to host memory and back."""
