"""`python -m lib.stack COMMAND` is what `make` calls: up, down, status, lab, clean; and `migrate`, for containers."""

from lib.stack.lifecycle import main

if __name__ == "__main__":
    main()
