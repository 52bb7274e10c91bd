"""Builds the extension modules, which are optional. Everything else is in setup.cfg."""

from __future__ import annotations

import importlib.util
import json
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
        record = self._record()
        record.unlink(missing_ok=True)
        digest = accel.digest()  # of before: who edits a source meanwhile is not to get away with it
        try:
            self._translate()
            super().run()
        except (Exception, SystemExit) as error:  # whatever is missing: compiler, headers, Cython
            self.extensions = []
            why = " ".join(str(error).split()) or type(error).__name__
            print(
                f"{PACKAGE}: the hot path is NOT compiled, it will run as plain Python, slower: {why}", file=sys.stderr
            )
            return
        record.write_text(f"{digest}\n", encoding="utf-8")

    def copy_extensions_to_source(self):
        """Copy also over newer ones: an editable installation made those, elsewhere and perhaps of other sources."""
        self.force = True
        super().copy_extensions_to_source()

    def _record(self):
        """Where the digest belongs: a folder of its own, or that of the sources for an editable installation."""
        folder = ROOT / PACKAGE if self.inplace else Path(self.build_lib, PACKAGE)
        return folder / accel.record(self.get_ext_filename("x")[1:])  # of the Python that is compiled for

    def _translate(self):
        import greenlet
        from Cython.Build import cythonize

        made = Path(self.build_temp)
        made_of = made / "translated.json"
        digests = accel.digests()
        if accel.headers_changed(made) or self._looks_older(digests, made, made_of):
            self.force = True  # to compile too
        made_of.unlink(missing_ok=True)
        translated = cythonize(
            self.extensions,
            build_dir=self.build_temp,
            force=self.force,
            quiet=True,
            compiler_directives={
                "language_level": 3,
                "annotation_typing": False,  # the types for C are those of the .pxd files
            },
        )
        made.mkdir(parents=True, exist_ok=True)
        made_of.write_text(json.dumps(digests), encoding="utf-8")
        include = str(Path(greenlet.__file__).parents[1])  # its header is greenlet/greenlet.h
        for extension, with_c in zip(self.extensions, translated, strict=True):
            extension.sources = with_c.sources
            extension.include_dirs.append(include)

    @staticmethod
    def _looks_older(digests, made, made_of):
        """Tell whether a source has changed and is older than a C file: Cython goes by the times alone.

        So it is after a checkout or a copy that keeps times. Edited sources are newer, and what they have nothing to
        do with is not made again.
        """
        newest = max((file.stat().st_mtime for file in made.rglob("*.c")), default=None)
        if newest is None:
            return False
        was = json.loads(made_of.read_text(encoding="utf-8")) if made_of.is_file() else {}
        if was.keys() - digests.keys():
            return True
        changed = [name for name, digest in digests.items() if was.get(name) != digest]
        return any((ROOT / PACKAGE / name).stat().st_mtime <= newest for name in changed)


setup(
    ext_modules=[
        Extension(f"{PACKAGE}.{module}", [f"{PACKAGE}/{module.replace('.', '/')}.py"]) for module in accel.MODULES
    ],
    cmdclass={"build_ext": BuildAll},
)
