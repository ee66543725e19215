"""Two pools, as two instances would have them: what one has computed, the other finds."""

from memserve import MemPool

shape = {"block_size": 16, "block_bytes": 64 * 1024, "dram_bytes": 16 * 2**20}  # 16 tokens a block

with MemPool(instance="prefill", **shape) as prefill, MemPool(instance="decode", **shape) as decode:
    decode_info = prefill.connect(decode.info.endpoint)
    tokens = list(range(32))
    blocks = prefill.alloc_mem(2)
    prefill.write(blocks, b"K" * 64 * 1024 + b"V" * 64 * 1024)
    prefill.transfer_with_insert(decode_info, tokens, blocks)
    with decode.match([*tokens, 99]) as found:
        print(found.num_tokens, "tokens found,", len(decode.read(found.addresses)), "bytes read")
