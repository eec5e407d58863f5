from Cython.Build import cythonize
from setuptools import Extension, setup

import kvmbench

setup(
    name="host",
    ext_modules=cythonize(
        # The include path is for editable installs; a normal one is found without.
        [Extension("host", ["host.pyx"])],
        include_path=[kvmbench.get_include()],
    ),
)
