"""`python -m rafttoy` is `rafttoy`."""

from __future__ import annotations

from rafttoy.cli.main import main

if __name__ == "__main__":
    main()
