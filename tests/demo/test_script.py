"""What the demo plays, from the real collection."""

from memserve.bundled.conversations import sharegpt_file
from memserve.demo.script import write_script


def test_the_first_conversation_has_at_least_five_turns_and_the_second_shares_only_the_system_prompt() -> None:
    first, second = write_script(sharegpt_file())
    assert len(first.human) >= 5
    assert first.system == second.system
    assert not set(first.human) & set(second.human)


def test_the_system_prompt_is_longer_than_two_blocks_of_128_tokens() -> None:
    scene = write_script(sharegpt_file())[0]
    assert len(scene.system.split()) >= 300
