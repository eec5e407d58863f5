"""`python -m kvmbench` runs the command `kvmbench`."""

from kvmbench.cli.main import main

if __name__ == "__main__":
    main(prog_name="kvmbench")
