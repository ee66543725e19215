"""The short version of `make chaos`, and that its judge can tell right from wrong."""

import re
import subprocess
import sys

from tests.chaos.load import Answer, Turn, judge
from tests.chaos.tokens import TOKEN_BYTES, answer, extend, next_token


def test_one_wrong_byte_of_kv_changes_what_follows() -> None:
    prompt = [*range(1000, 1040)]
    kv = bytearray(extend(b"", prompt))
    kv[7 * TOKEN_BYTES + 3] ^= 1
    assert [next_token(bytes(kv))] != answer(prompt, 1)
    assert extend(bytes(kv[: 8 * TOKEN_BYTES])[-TOKEN_BYTES:], prompt[8:]) != bytes(kv[8 * TOKEN_BYTES :])


def test_an_answer_is_right_only_when_it_is_whole_and_the_same_and_wrong_also_when_it_breaks_off() -> None:
    turn = Turn(prompt=[1], tokens=[5, 6], text="ab")

    def verdict(tokens: list[int], text: str, *, is_whole: bool) -> str:
        return judge(Answer(tokens=tokens, text=text, is_whole=is_whole), turn, with_ids=True)[0]

    assert verdict([5, 6], "ab", is_whole=True) == "right"
    assert verdict([5], "a", is_whole=True) == "wrong"
    assert verdict([5, 7], "ab", is_whole=True) == "wrong"
    assert verdict([5], "a", is_whole=False) == "failed"
    assert verdict([7], "a", is_whole=False) == "wrong"


def test_a_simulated_cluster_answers_rightly_through_faults_and_leaves_nothing() -> None:
    command = [sys.executable, "-m", "tests.chaos.run", "--simulated", "--small", "--seconds", "3", "--seed", "14"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=115, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    last = ended.stdout.splitlines()[-1]
    counts = re.fullmatch(r"chaos: sent (\d+) right (\d+) wrong 0 failed 0 resumed \d+ leaked 0", last)
    assert counts is not None, last
    assert counts[1] == counts[2]
    assert int(counts[1]) > 20
