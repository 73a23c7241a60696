"""What pyproject.toml cannot say: the folder `configs` at the top becomes a part of the installed package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConfigs(build_py):
    """Copies `configs` into the package, where `pffdst train` finds it; a clone uses it where it lies."""

    def run(self) -> None:
        """Builds, then copies."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "pffdst" / "configs"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("configs", target)


setup(cmdclass={"build_py": WithConfigs})
