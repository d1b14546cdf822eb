//! Containers, from their making to their end, and what is told of them.

use serde_json::{Value, json};

use crate::common::*;
use crate::{SLEEPER, assert_shape, create, document, podman};

const CONTAINER: &str = "id:s image:s imageid:s command:a createdat:s runningfor:s status:s ports:a rootfssize:n rwsize:n \
    names:s labels:o mounts:a containerrunning:b namespaces.user:s namespaces.uts:s namespaces.pidns:s namespaces.pid:s \
    namespaces.cgroup:s namespaces.net:s namespaces.mnt:s namespaces.ipc:s";
const PS: &str = "id:s image:s command:s created:s ports:s names:s isInfra:b status:s state:s pidNum:n rootFsSize:n rwSize:n \
    pod:s createdAt:s exitedAt:s startedAt:s labels:o nsPid:s cgroup:s ipc:s mnt:s net:s pidNs:s user:s uts:s mounts:s";
const STATS: &str = "id:s name:s cpu:n cpu_nano:n system_nano:n mem_usage:n mem_limit:n mem_perc:n net_input:n net_output:n \
    block_output:n block_input:n pids:n";
const STATE: &str = "state:n exitCode:n pid:n startedTime:s finishedTime:s configPath:s runDir:s mounted:b mountPoint:s \
    exited:b oomKilled:b conmonPid:n newExecSessions:o bindMounts:o stoppedByUser:b restartCount:n";
const CONFIG: &str = "id:s name:s stopTimeout:n netNsCtr:s portMappings:a labels:o createdTime:s rootfsImageID:s \
    rootfsImageName:s logPath:s pod:s command:a spec:o staticIP:s staticMAC:0 stopSignal:n healthcheck:0o";
const INSPECT: &str = "Id:s Created:s Path:s Args:a State:o Image:s ImageName:s Rootfs:s Pod:s ResolvConfPath:s HostnamePath:s \
    HostsPath:s StaticDir:s OCIConfigPath:s OCIRuntime:s LogPath:s LogTag:s ConmonPidFile:s Name:s RestartCount:n Driver:s \
    MountLabel:s ProcessLabel:s AppArmorProfile:s EffectiveCaps:a BoundingCaps:a ExecIDs:a GraphDriver.Name:s \
    GraphDriver.Data:o SizeRw:n SizeRootFs:n Mounts:a Dependencies:a NetworkSettings.Ports:a NetworkSettings.IPAddress:s \
    ExitCommand:a Namespace:s IsInfra:b State.OciVersion:s State.Status:s State.Running:b State.Paused:b \
    State.Restarting:b State.OOMKilled:b State.Dead:b State.Pid:n State.ConmonPid:n State.ExitCode:n State.Error:s \
    State.StartedAt:s State.FinishedAt:s State.Healthcheck.Status:s State.Healthcheck.FailingStreak:n State.Healthcheck.Log:0a \
    Config.Hostname:s Config.Domainname:s Config.User:s Config.AttachStdin:b Config.Tty:b Config.OpenStdin:b \
    Config.StdinOnce:b Config.Env:a Config.Cmd:a Config.Image:s Config.Volumes:0o Config.WorkingDir:s Config.Entrypoint:s \
    Config.OnBuild:0s Config.Labels:o Config.Annotations:o Config.StopSignal:n Config.CreateCommand:a HostConfig.Binds:a \
    HostConfig.NetworkMode:s HostConfig.LogConfig.Type:s HostConfig.LogConfig.Config:0o HostConfig.PortBindings:o \
    HostConfig.RestartPolicy.Name:s HostConfig.RestartPolicy.MaximumRetryCount:n HostConfig.AutoRemove:b HostConfig.CapAdd:a \
    HostConfig.CapDrop:a HostConfig.IpcMode:s HostConfig.PidMode:s HostConfig.UTSMode:s HostConfig.UsernsMode:s \
    HostConfig.ShmSize:n HostConfig.Memory:n HostConfig.CpuShares:n HostConfig.NanoCpus:n HostConfig.PidsLimit:n \
    HostConfig.Ulimits:a";

#[test]
fn what_is_told_of_a_container_has_every_field_and_its_type() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let options = json!({"ulimit": ["nofile=1024:1024"], "memory": "100000000", "volume": ["/tmp:/there:ro"],
        "label": ["a=b"], "env": ["DEGRADED", "A=b"], "tmpfs": ["/scratch"]});
    let id = create(&host, "c1", SLEEPER, options);
    let never = "0001-01-01T00:00:00Z";
    let configured = podman(&host, "GetContainer", json!({"id": "c1"})).unwrap()["container"].take();
    assert_shape(&configured, CONTAINER);
    assert_eq!(configured["status"], "configured");
    let state = document(&podman(&host, "ContainerStateData", json!({"name": "c1"})).unwrap(), "config");
    assert_eq!((&state["state"], &state["startedTime"]), (&json!(1), &json!(never)));
    let spec = document(&podman(&host, "Spec", json!({"name": "c1"})).unwrap(), "config");
    assert_eq!(spec["process"]["terminal"], false);

    assert_eq!(podman(&host, "StartContainer", json!({"name": "c1"})).unwrap()["container"], json!(id));
    let all = podman(&host, "ListContainers", json!({})).unwrap();
    assert_shape(&all["containers"][0], CONTAINER);
    assert_eq!(all["containers"][0]["mounts"][0]["destination"], "/there");
    assert!(all["containers"][0]["namespaces"]["net"].as_str().unwrap().len() > 5);
    let ps =
        podman(&host, "Ps", json!({"opts": {"all": false, "last": -1}})).unwrap()["containers"][0].take();
    assert_shape(&ps, PS);
    assert_eq!(
        (&ps["id"], &ps["state"], &ps["exitedAt"]),
        (&json!(id[..12]), &json!("running"), &json!(never))
    );
    assert!(ps["status"].as_str().unwrap().starts_with("Up "), "{ps}");
    let state = document(&podman(&host, "ContainerStateData", json!({"name": "c1"})).unwrap(), "config");
    assert_shape(&state, STATE);
    assert_eq!(state["state"], 3);
    let config = document(&podman(&host, "ContainerConfig", json!({"name": "c1"})).unwrap(), "config");
    assert_shape(&config, CONFIG);
    assert_eq!(config["spec"]["process"]["args"], json!(SLEEPER));
    for (method, key) in [("InspectContainer", "container"), ("ContainerInspectData", "config")] {
        let inspected = document(&podman(&host, method, json!({"name": "c1", "size": true})).unwrap(), key);
        assert_shape(&inspected, INSPECT);
        assert_eq!(
            inspected["HostConfig"]["Ulimits"],
            json!([{"Name": "RLIMIT_NOFILE", "Soft": 1024, "Hard": 1024}])
        );
        assert_eq!(inspected["HostConfig"]["Memory"], 100_000_000);
        assert_eq!(inspected["State"]["Running"], true);
    }
    let stats = podman(&host, "GetContainerStats", json!({"name": "c1"})).unwrap()["container"].take();
    assert_shape(&stats, STATS);
    let again = podman(&host, "GetContainerStatsWithHistory", json!({"previousStats": stats})).unwrap();
    assert_shape(&again["container"], STATS);
    let top = podman(&host, "Top", json!({"nameOrID": "c1", "descriptors": ["pid", "args"]})).unwrap();
    assert_eq!(top["top"][0], "PID\tCOMMAND");
    assert!(top["top"][1].as_str().unwrap().starts_with("1\tsh -c trap"), "{top}");
    let processes = podman(&host, "ListContainerProcesses", json!({"name": "c1"})).unwrap();
    assert!(processes["container"][0].as_str().unwrap().contains("PID"));
    assert_refused(
        podman(&host, "Top", json!({"nameOrID": "c1", "descriptors": ["nonsense"]})),
        "ErrorOccurred",
    );
    podman(&host, "RemoveContainer", json!({"name": "c1", "force": true})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn the_life_of_a_container_and_its_refusals() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let id = create(&host, "life", SLEEPER, json!({}));
    let name = json!({"name": "life"});
    assert_refused(podman(&host, "KillContainer", json!({"name": "life", "signal": 9})), "InvalidState");
    assert_refused(podman(&host, "GetContainerStats", name.clone()), "NoContainerRunning");
    podman(&host, "InitContainer", name.clone()).unwrap();
    podman(&host, "StartContainer", name.clone()).unwrap();
    assert_refused(podman(&host, "StartContainer", name.clone()), "ErrorOccurred");
    assert_refused(podman(&host, "InitContainer", name.clone()), "InvalidState");
    assert_refused(podman(&host, "RemoveContainer", name.clone()), "InvalidState");
    podman(&host, "PauseContainer", name.clone()).unwrap();
    let paused = podman(&host, "GetContainersByStatus", json!({"status": ["paused"]})).unwrap();
    assert_eq!(paused["containerS"][0]["id"], json!(id));
    podman(&host, "UnpauseContainer", name.clone()).unwrap();
    assert_refused(podman(&host, "UnpauseContainer", name.clone()), "ErrorOccurred");
    podman(&host, "RestartContainer", json!({"name": "life", "timeout": 0})).unwrap();
    podman(&host, "KillContainer", json!({"name": "life", "signal": 9})).unwrap();
    let waited = podman(&host, "WaitContainer", json!({"name": "life", "interval": 250_000_000})).unwrap();
    assert_eq!(waited["exitcode"], 137);
    let refusal = assert_refused(podman(&host, "StopContainer", name.clone()), "ErrCtrStopped");
    assert_eq!(refusal.parameters, json!({"id": id}));
    let stopped = podman(&host, "GetContainersByContext", json!({"args": ["life"]})).unwrap();
    assert_eq!(stopped["containers"], json!([id]));
    let refusal = assert_refused(
        podman(&host, "GetContainersByContext", json!({"args": ["nobody"]})),
        "ContainerNotFound",
    );
    assert_eq!(refusal.parameters["id"], "");
    assert_eq!(podman(&host, "ContainerExists", name.clone()).unwrap()["exists"], 0);
    assert_eq!(podman(&host, "DeleteStoppedContainers", json!({})).unwrap()["containers"], json!([id]));
    assert_eq!(podman(&host, "ContainerExists", name).unwrap()["exists"], 1);
    assert_refused(podman(&host, "GetContainersByStatus", json!({"status": ["dreaming"]})), "ErrorOccurred");
    let never_there = assert_refused(podman(&host, "GetContainer", json!({"id": ""})), "ContainerNotFound");
    assert!(never_there.reason().contains("cannot be empty"));
    leaks.assert_none_after();
}

#[test]
fn options_are_refused_by_name_and_nothing_is_made() {
    let Some(host) = Host::new() else { return };
    let create = |options: Value| podman(&host, "CreateContainer", json!({"create": options}));
    for (options, part) in [
        (json!({"args": []}), "args is empty"),
        (json!({"args": ["busybox"], "memory": "much"}), "memory"),
        (json!({"args": ["busybox"], "cidFile": "/tmp/x"}), "cidFile"),
        (json!({"args": ["busybox"], "oomKillDisable": true}), "oomKillDisable"),
        (json!({"args": ["busybox"], "noHosts": true}), "noHosts"),
        (json!({"args": ["busybox"], "imageVolume": "ignore"}), "imageVolume"),
        (json!({"args": ["busybox"], "name": "a b"}), "name"),
        (json!({"args": ["busybox", "x"], "restart": "sometimes"}), "sometimes"),
        (json!({"args": ["localhost:1/absent"], "name": "x"}), "localhost:1"),
    ] {
        let refusal = assert_refused(create(options), "ErrorOccurred");
        assert!(refusal.reason().contains(part), "{refusal:?}");
    }
    assert_eq!(podman(&host, "ListContainers", json!({})).unwrap()["containers"], json!([]));
}

#[test]
fn under_a_read_only_root_some_places_can_be_written_to_if_that_is_wanted() {
    let Some(host) = Host::new() else { return };
    let script = "for place in /run /tmp /var/tmp; do touch $place/x 2>/dev/null && echo $place; done; true";
    for (more, expected) in [
        (json!({"readonlytmpfs": true, "imageVolume": "bind"}), "/run\n/tmp\n/var/tmp\n"),
        (json!({"readonlytmpfs": true, "tmpfs": ["/tmp:ro"]}), "/run\n/var/tmp\n"),
        (json!({"readonlytmpfs": false}), ""),
    ] {
        let mut options = json!({"readonly": true});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let id = create(&host, "box", &["sh", "-c", script], options);
        podman(&host, "StartContainer", json!({"name": "box"})).unwrap();
        podman(&host, "WaitContainer", json!({"name": "box"})).unwrap();
        let logs = host.call("Container.Logs", json!({"name": id})).unwrap();
        assert_eq!(
            messages(&logs).iter().map(|line| format!("{line}\n")).collect::<String>(),
            expected,
            "{more}"
        );
        podman(&host, "RemoveContainer", json!({"name": "box"})).unwrap();
    }
}

#[test]
fn lists_are_filtered_sorted_and_cut() {
    let Some(host) = Host::new() else { return };
    for name in ["one", "two", "three"] {
        create(&host, name, &["sh", "-c", "exit 3"], json!({"label": [format!("which={name}")]}));
    }
    podman(&host, "StartContainer", json!({"name": "two"})).unwrap();
    podman(&host, "WaitContainer", json!({"name": "two"})).unwrap();
    let names = |opts: Value| -> Vec<String> {
        let reply = podman(&host, "Ps", json!({"opts": opts})).unwrap();
        let name = |row: &Value| row["names"].as_str().unwrap().to_owned();
        reply["containers"].as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(names(json!({"all": true})), ["three", "two", "one"]);
    assert_eq!(names(json!({"all": true, "sort": "names"})), ["one", "three", "two"]);
    assert_eq!(names(json!({"last": 2})), ["three", "two"]);
    assert_eq!(names(json!({"latest": true})), ["three"]);
    assert_eq!(names(json!({"filters": ["exited=3"]})), ["two"]);
    assert_eq!(names(json!({"filters": ["status=exited"]})), ["two"]);
    assert_eq!(names(json!({"all": true, "filters": ["label=which=one"]})), ["one"]);
    assert_eq!(names(json!({"all": true, "filters": ["before=two"]})), ["one"]);
    assert_eq!(names(json!({"all": true, "filters": ["since=two", "name=thr"]})), ["three"]);
    let exited = podman(&host, "Ps", json!({"opts": {"all": true, "filters": ["name=two"]}})).unwrap();
    assert!(exited["containers"][0]["status"].as_str().unwrap().starts_with("Exited (3) "), "{exited}");
    assert_refused(podman(&host, "Ps", json!({"opts": {"filters": ["color=red"]}})), "ErrorOccurred");
    assert_refused(podman(&host, "Ps", json!({"opts": {"filters": ["nonsense"]}})), "ErrorOccurred");
}

#[test]
fn logs_are_lines_and_end() {
    let Some(host) = Host::new() else { return };
    let id = create(&host, "talks", &["sh", "-c", "echo one; echo two; echo three"], json!({}));
    podman(&host, "StartContainer", json!({"name": "talks"})).unwrap();
    podman(&host, "WaitContainer", json!({"name": "talks"})).unwrap();
    let lines = podman(&host, "GetContainerLogs", json!({"name": "talks"})).unwrap();
    let lines: Vec<&str> =
        lines["container"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        let mut words = line.splitn(4, ' ');
        let time = words.next().unwrap();
        assert_eq!((time.len(), &time[time.len() - 6..]), (35, "+00:00"), "{line}");
        assert!(["stdout", "stderr"].contains(&words.next().unwrap()));
        assert_eq!(words.next(), Some("F"));
        assert!(words.next().unwrap().ends_with('\n'));
    }
    let wanted = json!({"names": ["talks"], "since": "0001-01-01T00:00:00Z", "tail": 2, "follow": true});
    let logs = host.call_more("io.podman.GetContainersLogs", wanted).unwrap();
    let said = |log: &Value| log["log"]["msg"].as_str().unwrap().to_owned();
    assert_eq!(logs.len(), 3, "{logs:?}");
    assert_eq!(logs[0]["log"]["cid"], json!(id));
    assert_shape(&logs[0]["log"], "device:s parseLogType:s time:s msg:s cid:s");
    let empty = json!({"device": "", "parseLogType": "", "time": "", "msg": "", "cid": ""});
    assert_eq!((said(&logs[1]), &logs[2]["log"]), ("three".to_owned(), &empty));
    let end = host.call_more("io.podman.GetContainerLogs", json!({"name": "talks"})).unwrap_err();
    assert!(end.reason().ends_with("is no longer running"));
    assert_refused(podman(&host, "GetContainersLogs", json!({"names": ["talks"]})), "ErrorOccurred");
}

#[test]
fn what_a_container_has_changed_is_told_exported_and_committed() {
    let Some(host) = Host::new() else { return };
    create(&host, "writes", &["sh", "-c", "echo x > /new; rm /etc/group; echo y >> /etc/passwd"], json!({}));
    podman(&host, "StartContainer", json!({"name": "writes"})).unwrap();
    podman(&host, "WaitContainer", json!({"name": "writes"})).unwrap();
    let changes =
        podman(&host, "ListContainerChanges", json!({"name": "writes"})).unwrap()["container"].take();
    assert_eq!(changes["added"], json!(["/new"]));
    assert_eq!(changes["deleted"], json!(["/etc/group"]));
    assert_eq!(changes["changed"], json!(["/etc", "/etc/passwd"]));
    let diffs = podman(&host, "Diff", json!({"name": "writes"})).unwrap();
    assert!(diffs["diffs"].as_array().unwrap().contains(&json!({"path": "/new", "changeType": "A"})));
    let target = host.path().join("out.tar");
    let exported = podman(&host, "ExportContainer", json!({"name": "writes", "path": target})).unwrap();
    assert_eq!(exported["tarfile"], json!(target));
    let mut tar = tar::Archive::new(std::fs::File::open(&target).unwrap());
    assert!(tar.entries().unwrap().any(|entry| entry.unwrap().path().unwrap().ends_with("new")));
    assert_refused(
        podman(&host, "ExportContainer", json!({"name": "writes", "path": "relative"})),
        "ErrorOccurred",
    );
    let commit = json!({"name": "writes", "image_name": "made", "author": "me", "message": "said", "pause": true,
        "format": "oci", "changes": ["CMD [\"cat\", \"/new\"]", "LABEL=x=y", "ENV A=1"]});
    let replies = host.call_more("io.podman.Commit", commit).unwrap();
    let made = replies.last().unwrap()["reply"]["id"].as_str().unwrap().to_owned();
    let image = document(&podman(&host, "InspectImage", json!({"name": made})).unwrap(), "image");
    assert_eq!(image["RepoTags"], json!(["localhost/made:latest"]));
    assert_eq!(image["Config"]["Cmd"], json!(["cat", "/new"]));
    assert_eq!((&image["Author"], &image["Labels"]["x"]), (&json!("me"), &json!("y")));
    let wrong = json!({"name": "writes", "image_name": "UPPER CASE"});
    assert_refused(podman(&host, "Commit", wrong), "ErrorOccurred");
    assert_refused(
        podman(&host, "Commit", json!({"name": "writes", "changes": ["ONBUILD x"]})),
        "ErrorOccurred",
    );
}

#[test]
fn a_container_is_described_for_kubernetes() {
    let Some(host) = Host::new() else { return };
    let options = json!({"publish": ["8080:80"], "env": ["A=b"], "network": "bridge", "volume": ["/tmp:/there:ro"],
        "memory": "100m", "cpus": 1.5});
    create(&host, "kube", SLEEPER, options);
    let reply =
        podman(&host, "GenerateKube", json!({"name": "kube", "service": true})).unwrap()["pod"].take();
    let (pod, service) = (document(&reply, "pod"), document(&reply, "service"));
    assert_eq!((&pod["kind"], &pod["metadata"]["name"]), (&json!("Pod"), &json!("kube-pod")));
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["args"], json!(SLEEPER));
    assert_eq!(container["ports"], json!([{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}]));
    assert_eq!(container["resources"]["limits"], json!({"cpu": "1500m", "memory": "104857600"}));
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/there");
    assert_eq!(pod["spec"]["volumes"][0]["hostPath"]["path"], "/tmp");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 80);
    let without = podman(&host, "GenerateKube", json!({"name": "kube"})).unwrap();
    assert_eq!(without["pod"]["service"], "{}");
    assert_refused(podman(&host, "GenerateKube", json!({"name": "nobody"})), "ErrorOccurred");
}
