"""The real reason is found in logs of the shapes that vLLM writes."""

# ruff: noqa: E501 - log lines as they come

from memserve.manager.failure import reason

TRACEBACK = """\
(APIServer pid=9) Traceback (most recent call last):
(APIServer pid=9)   File "/v/vllm/v1/engine/core_client.py", line 820, in __init__
(APIServer pid=9)     with launch_core_engines(vllm_config, executor_class) as (
(APIServer pid=9)   File "/v/vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup
(APIServer pid=9)     raise RuntimeError(
(APIServer pid=9) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_the_cause_is_taken_from_the_process_that_met_it_and_not_from_those_above() -> None:
    log = (
        """\
(APIServer pid=9) INFO 11-22 13:11:39 [model.py:733] Resolved architecture: LlamaForCausalLM
(EngineCore_DP0 pid=11) ERROR 11-22 13:12:01 [core.py:1510] EngineCore failed to start.
(EngineCore_DP0 pid=11) ERROR 11-22 13:12:01 [core.py:1510] Traceback (most recent call last):
(EngineCore_DP0 pid=11) ERROR 11-22 13:12:01 [core.py:1510]   File "/v/vllm/v1/engine/core.py", line 1500, in run_engine_core
(EngineCore_DP0 pid=11) ERROR 11-22 13:12:01 [core.py:1510] ValueError: To serve at least one request with the models's max seq len (8192), 0.36 GiB KV cache is needed
"""
        + TRACEBACK
    )
    assert reason(log, 1) == (
        "ValueError: To serve at least one request with the models's max seq len (8192), 0.36 GiB KV cache is needed "
        "(exit code 1)"
    )


def test_a_workers_fault_is_preferred_to_the_executors_summary() -> None:
    log = (
        """\
(Worker_TP1 pid=12) ERROR 11-22 13:12:01 [multiproc_executor.py:812] WorkerProc failed to start.
(Worker_TP1 pid=12) ERROR 11-22 13:12:01 [multiproc_executor.py:812] Traceback (most recent call last):
(Worker_TP1 pid=12) ERROR 11-22 13:12:01 [multiproc_executor.py:812]     raise
(Worker_TP1 pid=12) ERROR 11-22 13:12:01 [multiproc_executor.py:812] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
(EngineCore_DP0 pid=11) ERROR 11-22 13:12:02 [core.py:1510] Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
"""
        + TRACEBACK
    )
    assert reason(log, 1).startswith("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_pydantic_error_keeps_its_indented_text_without_the_footnote() -> None:
    log = """\
(APIServer pid=9)   File "/v/vllm/config/model.py", line 900, in create
(APIServer pid=9) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
(APIServer pid=9)   Value error, Invalid repository ID or local directory specified: '/models/nothing'. [type=value_error]
(APIServer pid=9)     For further information visit https://errors.pydantic.dev/2.12/v/value_error
"""
    assert reason(log, 1) == (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig Value error, "
        "Invalid repository ID or local directory specified: '/models/nothing'. [type=value_error] (exit code 1)"
    )


def test_an_unknown_option_is_shown_as_argparse_says_it() -> None:
    log = """\
usage: api_server.py [-h] [--headless] [--api-server-count API_SERVER_COUNT]
                     [--config CONFIG]
api_server.py: error: unrecognized arguments: --max-modle-len 512
"""
    assert reason(log, 2) == "api_server.py: error: unrecognized arguments: --max-modle-len 512 (exit code 2)"


def test_a_missing_module_is_named() -> None:
    log = """\
/v/bin/python: Error while finding module specification
Traceback (most recent call last):
  File "<frozen runpy>", line 189, in _run_module_as_main
ModuleNotFoundError: No module named 'vllm'
"""
    assert reason(log, 1) == "ModuleNotFoundError: No module named 'vllm' (exit code 1)"


def test_our_own_refusals_are_recognised() -> None:
    log = (
        "memserve.core.errors.IdentityMismatch: cannot share KV with prefill-0: dtype: 'float16' here, 'float32' there"
    )
    assert reason(log, 1).startswith("memserve.core.errors.IdentityMismatch: cannot share KV with prefill-0")


def test_an_error_line_without_exception_will_do() -> None:
    log = """\
(APIServer pid=9) INFO 11-22 13:11:39 [model.py:733] Resolved architecture
(APIServer pid=9) ERROR 11-22 13:11:40 [launcher.py:99] port 8100 is used by process 77
(APIServer pid=9) INFO 11-22 13:11:40 [launcher.py:99] Shutting down
"""
    assert reason(log, 1) == "port 8100 is used by process 77 (exit code 1)"


def test_a_warning_that_mentions_an_error_is_no_cause() -> None:
    log = "(APIServer pid=9) WARNING 11-22 13:11:31 [utils.py:255] This can cause errors like `OSError: [Errno 24]`.\n"
    assert reason(log, 3).startswith("exit code 3; its last output: This can cause errors")


def test_being_killed_without_a_word_points_at_memory() -> None:
    assert reason("", 137) == "ended by SIGKILL, most likely because the machine ran out of memory, without any output"
    assert reason("", -15) == "ended by SIGTERM, without any output"


def test_the_interrupt_of_our_own_stop_is_not_taken_for_the_cause() -> None:
    log = "OSError: [Errno 28] No space left on device\nKeyboardInterrupt\n"
    assert reason(log, 130).startswith("OSError: [Errno 28] No space left on device")


def test_a_very_long_message_is_cut() -> None:
    assert len(reason("ValueError: " + "x" * 10_000, 1)) < 700
