# Gives the image in image.tar, an OCI archive, volumes that it wants, and the name `wanting`.
set -e
mkdir image && tar -C image -xf image.tar
python3 - <<'PYTHON'
import hashlib, json
def blob(digest): return "image/blobs/sha256/" + digest.split(":")[1]
def store(data):
    text = json.dumps(data).encode()
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    open(blob(digest), "wb").write(text)
    return digest, len(text)
index = json.load(open("image/index.json"))
manifest = json.load(open(blob(index["manifests"][0]["digest"])))
config = json.load(open(blob(manifest["config"]["digest"])))
config.setdefault("config", {})["Volumes"] = {
    path: {} for path in ["/data", "/cache/", "/sys/fs/cgroup", "/proc/x", "relative", "/", "/../x"]}
manifest["config"]["digest"], manifest["config"]["size"] = store(config)
entry = index["manifests"][0]
entry["digest"], entry["size"] = store(manifest)
entry["annotations"] = {"org.opencontainers.image.ref.name": "wanting:latest", "io.containerd.image.name": "localhost/wanting:latest"}
index["manifests"] = [entry]
json.dump(index, open("image/index.json", "w"))
PYTHON
tar -C image -cf image.tar . && rm -r image
