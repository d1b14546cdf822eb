"""The life of a container, driven by the varlink package of PyPI. Prints nothing, or fails."""

import sys

import varlink

LABEL = {"made-by": "python"}


def main(address):
    client = varlink.Client.new_with_address(address)
    interfaces = set(client.get_interfaces())
    for interface in ("Manager", "Container", "Unit", "Image", "Network"):
        assert f"io.dormouse.{interface}" in interfaces, interfaces

    with client.open("io.dormouse.Manager") as manager:
        assert manager.Version()["version"], "no version"

    with client.open("io.dormouse.Container") as containers:
        script = "echo one; sleep 0.2; echo two >&2; exit 3"
        spec = {"name": "py", "image": "busybox", "command": ["sh", "-c", script], "labels": LABEL,
                "networkNamespace": {"kind": "private"}}
        made = containers.Run(spec=spec)
        assert made["name"] == "py" and len(made["id"]) == 64, made

        listed = containers.List(labels=LABEL)["containers"]
        assert [one["id"] for one in listed] == [made["id"]], listed

        lines = []
        for reply in containers.Logs(name="py", follow=True, _more=True):
            lines += [(entry["stream"], entry["message"]) for entry in reply["entries"]]
        assert lines == [("stdout", "one"), ("stderr", "two")], lines

        assert containers.Wait(name="py")["exitCode"] == 3
        containers.Stop(name="py")
        expect("io.dormouse.Container.NotFound", containers.Inspect, name="nobody")
        containers.Remove(name="py")
        expect("io.dormouse.Container.NotFound", containers.Inspect, name="py")


def expect(error, method, **parameters):
    try:
        method(**parameters)
    except varlink.VarlinkError as caught:
        assert caught.error() == error, caught
    else:
        raise AssertionError(f"{error} was expected")


main(sys.argv[1])
