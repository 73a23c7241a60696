"""A logger of one's own: a line of text for every round."""

from pffdst.loggers.base import RunLogger


class Lines(RunLogger):
    def __init__(self, file: str = "lines.txt") -> None:
        self.file, self.path = file, None

    def open(self, run, state):
        self.path = run.folder / self.file
        self.path.write_text(f"{run.name}\n", encoding="utf-8")

    def log(self, row):
        with self.path.open("a", encoding="utf-8") as out:
            out.write(f"{row['round']} {row['mask/sparsity']}\n" if "mask/sparsity" in row else f"{row['round']}\n")
