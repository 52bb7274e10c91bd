"""Builds the extension modules, which are optional. Everything else is in setup.cfg."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = "theatre_gevent"
ROOT = Path(__file__).parent

_spec = importlib.util.spec_from_file_location("_accel", ROOT / PACKAGE / "_accel.py")
accel = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(accel)


class BuildAll(build_ext):
    """Compiles all the modules or none."""

    def finalize_options(self):
        """As many compilers at once as there are processors."""
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count()

    def run(self):
        """Compile, and leave the digest of the sources beside the modules; without a compiler leave nothing."""
        self._forget()
        digest = accel.digest()  # of before: who edits a source meanwhile is not to get away with it
        try:
            self._translate()
            super().run()
        except (Exception, SystemExit) as error:  # whatever is missing: compiler, headers, Cython
            self._forget()
            self.extensions = []
            why = " ".join(str(error).split()) or type(error).__name__
            print(
                f"{PACKAGE}: the hot path is NOT compiled, it will run as plain Python, slower: {why}", file=sys.stderr
            )
            return
        for folder in self._folders():
            (folder / "_compiled.py").write_text(
                '"""Written when the extension modules were built: what they were built from."""\n\n'
                f'DIGEST = "{digest}"\n'
            )

    def _folders(self):
        """Where the package is built: in a folder of its own, and in the sources for an editable installation."""
        folders = [] if getattr(self, "editable_mode", False) or self.inplace else [Path(self.build_lib, PACKAGE)]
        return folders + ([ROOT / PACKAGE] if self.inplace else [])

    def _forget(self):
        for folder in self._folders():
            (folder / "_compiled.py").unlink(missing_ok=True)

    def _translate(self):
        import greenlet
        from Cython.Build import cythonize

        translated = cythonize(
            self.extensions,
            build_dir=self.build_temp,
            force=self.force or accel.headers_changed(Path(self.build_temp)),
            quiet=True,
            compiler_directives={
                "language_level": 3,
                "annotation_typing": False,  # the types for C are those of the .pxd files
            },
        )
        include = str(Path(greenlet.__file__).parents[1])  # its header is greenlet/greenlet.h
        for extension, with_c in zip(self.extensions, translated, strict=True):
            extension.sources = with_c.sources
            extension.include_dirs.append(include)


setup(
    ext_modules=[
        Extension(f"{PACKAGE}.{module}", [f"{PACKAGE}/{module.replace('.', '/')}.py"]) for module in accel.MODULES
    ],
    cmdclass={"build_ext": BuildAll},
)
