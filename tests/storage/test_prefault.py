"""New memory is touched before somebody waits for it."""

import mmap
import resource

from memserve.storage.prefault import Prefault

SIZE = 9 << 20


def num_faults_of_writing(memory: mmap.mmap) -> int:
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for start in range(0, SIZE, mmap.PAGESIZE):
        memory[start] = 1
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def test_the_first_write_into_prefaulted_memory_finds_its_pages() -> None:
    untouched, touched = mmap.mmap(-1, SIZE), mmap.mmap(-1, SIZE)
    for memory in (untouched, touched):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    prefault = Prefault(touched, range(SIZE))
    prefault.wait()
    assert num_faults_of_writing(untouched) >= SIZE // mmap.PAGESIZE
    assert num_faults_of_writing(touched) < SIZE // mmap.PAGESIZE // 10


def test_prefaulting_leaves_the_bytes_alone_and_can_be_stopped_at_any_time() -> None:
    memory = mmap.mmap(-1, SIZE)
    memory[SIZE - 3 :] = b"abc"
    prefault = Prefault(memory, range(SIZE))
    prefault.stop()
    prefault.stop()
    assert memory[SIZE - 3 :] == b"abc"
    memory.close()


def test_only_the_parts_given_are_touched() -> None:
    memory = mmap.mmap(-1, SIZE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    Prefault(memory, range(1 << 20), range(SIZE - (1 << 20), SIZE)).wait()
    num_untouched = (SIZE - (2 << 20)) // mmap.PAGESIZE
    assert num_untouched <= num_faults_of_writing(memory) < num_untouched + 100
