"""`python -m jaxllava <command>` is `jaxllava <command>`."""

from jaxllava.cli import main

if __name__ == "__main__":
    main()
