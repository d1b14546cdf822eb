"""Drives a service through every object of the package podman 1.6.0: objects.py ADDRESS DIRECTORY REGISTRY."""

import collections
import collections.abc
import os
import sys
import tempfile
import threading
import warnings

# Python has moved it since.
collections.MutableMapping = collections.abc.MutableMapping
warnings.simplefilter("ignore")

import podman  # noqa: E402
import podman.libs.errors as errors  # noqa: E402

address, directory, registry = sys.argv[1:4]


def refused(kind, work):
    try:
        result = work()
        if hasattr(result, "__next__"):
            list(result)
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected")


SLEEP = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"]

with podman.Client(uri=address) as client:
    # The service.
    assert client.system.ping()
    versions = client.system.versions
    assert set(versions._fields) == {
        "version", "go_version", "git_commit", "built", "os_arch", "remote_api_version", "client_version"}
    info = client.system.info()
    assert set(info._fields) == {"host", "registries", "store", "podman"}
    assert info.store["images"] == 1

    # Images.
    image = next(client.images.list())
    assert client.images.get(image.id).id == image.id
    refused(errors.ImageNotFound, lambda: client.images.get("nobody"))
    assert image.inspect().id == image.id
    assert image.tag("alpine:fubar") == image.id
    assert "localhost/alpine:fubar" in client.images.get(image.id)["repoTags"]
    saved = os.path.join(directory, "saved.tar")
    assert image.export("docker-archive:" + saved) == image.id and os.path.getsize(saved) > 0
    refused(errors.ErrorOccurred, lambda: image.push("localhost:1/nobody"))
    refused(errors.ErrorOccurred, lambda: client.images.pull("localhost:1/nobody"))
    refused(errors.ErrorOccurred, lambda: client.images.build(dockerfile=["x"], tags=["y"]))
    refused(errors.ErrorOccurred, lambda: client.images.import_image("/nowhere.tar", "x"))
    refused(errors.ErrorOccurred, lambda: client.images.search(""))

    # A registry.
    assert image.push(registry + "/team/box:1") == image.id
    found = list(client.images.search(registry + "/box", limit=3))
    assert [it.name for it in found] == [registry + "/team/box"] and found[0].star_count == 0, found
    assert list(client.images.search(registry + "/box", star_count=1)) == []
    assert client.images.pull(registry + "/team/box:1") == image.id
    assert registry + "/team/box:1" in client.images.get(image.id)["repoTags"]
    with client._client() as raw:
        raw.UntagImage(image.id, registry + "/team/box:1")

    # A container that is made of a container's tree has a command, and so can be made without one.
    maker = client.images.get("alpine:fubar")
    with client._client() as raw:
        made = raw.CreateContainer({"args": ["alpine:fubar"] + SLEEP, "network": "none", "name": "maker"})["container"]
    container = client.containers.get(made)
    assert container.status == "configured" and not container.running
    assert next(client.containers.list()).id == made
    refused(errors.ContainerNotFound, lambda: client.containers.get("nobody"))
    refused(errors.NoContainerRunning, container.stats)
    container.start()
    assert container.status == "running" and container.running
    assert list(container.processes())[0].split()[:2] == ["USER", "PID"]
    assert container.stats().pids >= 1
    assert container.inspect().id == made
    assert list(container.logs()) == []
    assert container.changes().keys() == {"changed", "added", "deleted"}
    container.pause()
    assert container.status == "paused"
    container.unpause()
    assert container.status == "running"
    refused(errors.InvalidState, container.remove)
    container.restart(timeout=1)
    exported = os.path.join(directory, "exported.tar")
    assert container.export(exported) == exported
    committed = container.commit("committed", message="said", changes=[], change=["CMD=[\"sleep\", \"1000\"]"])
    assert client.images.get("committed").id == committed
    container.kill(9)
    assert container.status == "exited"
    assert container.wait() == 137
    container.start()
    container.stop(timeout=5)
    assert container.status == "exited"
    assert container.remove() == made

    # A container of an image, as the library makes it; its network is a bridge.
    image = client.images.get("committed")
    container = image.container(name="of-image")
    assert container.status == "configured"
    refused(errors.ErrorOccurred, image.remove)
    assert client.containers.delete_stopped() == [container.id]

    # Streams by the paths of sockets: the input ends the command, and its output is read to its end.
    with client._client() as raw:
        made = raw.CreateContainer({"args": ["alpine:fubar", "cat"], "network": "none", "interactive": True})
    container = client.containers.get(made["container"])
    # What is sent in one piece, up to the end of transmission: `cat` echoes it, and goes on.
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as output:
        container.attach(stdin=reading, stdout=output.fileno())

        def type_it():
            os.write(writing, b"typed\n")
            for _ in range(600):
                if os.fstat(output.fileno()).st_size >= 6:
                    break
                threading.Event().wait(0.1)
            os.write(writing, b"\x04")

        typing = threading.Thread(target=type_it)
        typing.start()
        container.start()
        typing.join()
        output.seek(0)
        assert output.read() == b"typed\n"
    container.remove(force=True)

    # Images, to their end.
    assert client.images.import_image(exported, "imported", message="m", changes=["CMD=true"])
    assert client.images.get("committed").remove(force=True) == committed
    assert len(client.images.delete_unused()) == 2
    assert list(client.images.list()) == []

    # Pods.
    assert list(client.pods.list()) == []
    refused(errors.PodNotFound, lambda: client.pods.get("nobody"))
    try:
        pod = client.pods.create("pod1")
    except errors.ErrorOccurred as error:
        print(f"SKIPPED: the objects of pods: {error.reason}", file=sys.stderr)
        # The library's timer would keep the interpreter.
        os._exit(0)
    assert pod.status == "Created" and pod.numberofcontainers == "0" and pod.containersinfo == []
    assert client.pods.get(pod.id).name == "pod1" and [it.id for it in client.pods.list()] == [pod.id]
    inspected = pod.inspect()
    assert inspected.id == pod.id and inspected.containers is None
    refused(errors.NoContainersInPod, pod.start)
    refused(errors.NoContainersInPod, pod.restart)
    refused(errors.NoContainerRunning, pod.stats)
    refused(errors.ErrorOccurred, pod.top)
    for work in (pod.pause, pod.unpause, pod.stop, pod.kill):
        work()
    assert pod.remove() == inspected.id
    refused(errors.PodNotFound, lambda: client.pods.get("pod1"))

sys.stderr.flush()
os._exit(0)
