"""What `memserve instance` starts as vLLM's server."""

from tests.chaos.server import main

if __name__ == "__main__":
    main()
