"""Which packages there are. What belongs to the service and lies beside it in the repository is installed inside it, so that no
folder with a name as common as ``static`` or ``configs`` comes to lie among everybody's packages. Training's encoders stay out.
"""

from setuptools import find_packages, setup

INSIDE = {"avatar_rtc.static": "static", "avatar_rtc.static.looks": "static/looks"} | {
    f"avatar_rtc.configs{name}": f"configs{name.replace('.', '/')}" for name in ("", ".model", ".prompts", ".server", ".train")
}

setup(packages=[*find_packages(include=["avatar_rtc*", "model*", "signaling*"]), *INSIDE], package_dir=INSIDE)
