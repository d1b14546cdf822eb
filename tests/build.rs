//! Builds, as their users write them: every instruction, the cache, and what is told of mistakes.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod build_support;
mod common;

use build_support::{Context, client, config, good, in_image};
use common::{Host, Leaks, assert_refused};
use serde_json::{Value, json};

#[test]
fn an_image_is_what_its_containerfile_says() {
    let Some(host) = Host::new() else { return };
    let context = Context::new(
        r#"# escape=\
ARG BASE=busybox
FROM ${BASE} AS first
ARG GREETING=hello
ENV NAME="the world" PLACE=/srv/$GREETING
LABEL kind=test "a b"='c d'
RUN echo "$GREETING, $NAME" \
    # this is no part of it
    > /greeting && \

    echo done
WORKDIR $PLACE
WORKDIR deeper
COPY file.txt other.txt ./
EXPOSE 80 53/udp 8000-8001
VOLUME /data
USER alice
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --retries=2 CMD test -e /greeting
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/sh"]
CMD -c "cat /greeting"
"#,
    )
    .file("file.txt", "one\n")
    .file("other.txt", "two\n");
    let told = context
        .build(&host, json!({"tags": ["it", "it:2"], "arguments": {"GREETING": "hi"}, "labels": {"x": "y"}}));
    assert_eq!(told.names, ["localhost/it:latest", "localhost/it:2"]);
    assert_eq!(told.output, "done\n");
    assert_eq!(
        in_image(&host, "it", "cat /greeting; pwd; cat file.txt other.txt; id -un; echo $NAME"),
        "hi, the world\n/srv/hi/deeper\none\ntwo\nalice\nthe world\n"
    );
    let config = config(&host, "it");
    let it = &config["config"];
    assert_eq!(it["Labels"], json!({"kind": "test", "a b": "c d", "x": "y"}));
    assert_eq!(it["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}));
    assert_eq!(it["Volumes"], json!({"/data": {}}));
    assert_eq!(it["StopSignal"], "SIGINT");
    assert_eq!(
        it["Healthcheck"],
        json!({"Test": ["CMD-SHELL", "test -e /greeting"], "Interval": 5_000_000_000_i64, "Retries": 2})
    );
    assert_eq!(it["Shell"], json!(["/bin/sh", "-ec"]));
    assert_eq!(it["Cmd"], json!(["/bin/sh", "-ec", "-c \"cat /greeting\""]));
    assert_eq!(it["WorkingDir"], "/srv/hi/deeper");
    let layers = config["rootfs"]["diff_ids"].as_array().unwrap().len();
    let history = config["history"].as_array().unwrap();
    assert_eq!(history.iter().filter(|step| step["empty_layer"] != true).count(), layers);
    assert!(
        history
            .iter()
            .any(|step| step["created_by"].as_str().is_some_and(|text| text.starts_with("RUN echo")))
    );
}

#[test]
fn what_was_built_before_is_used_again_and_only_that() {
    let Some(host) = Host::new() else { return };
    let context = Context::new(
        "FROM busybox\nARG V=1\nRUN echo $V > /v\nCOPY a /a\nRUN date +%N > /made\nCOPY b /b\nCMD x\n",
    )
    .file("a", "1")
    .file("b", "1");
    let first = context.make(&host);
    assert_eq!((first.cached.len(), first.done.len()), (0, 7));
    let again = context.make(&host);
    assert_eq!(again.id, first.id, "nothing has changed");
    assert_eq!((again.cached.len(), again.done.as_slice()), (6, &["FROM busybox".to_owned()][..]));

    // A time alone is no change; a content is, and what stands on it.
    let touched = std::fs::File::options().append(true).open(context.path().join("a")).unwrap();
    touched.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9)).unwrap();
    assert_eq!(context.make(&host).id, first.id);
    context.write("b", "2");
    let changed = context.make(&host);
    assert!(changed.cached.contains(&"RUN date +%N > /made".to_owned()));
    assert_eq!(changed.done, ["FROM busybox", "COPY b /b", "CMD x"]);
    assert_eq!(in_image(&host, "it", "cat /b"), "2");

    let argument = context.build(&host, json!({"arguments": {"V": "2"}}));
    assert!(argument.done.contains(&"RUN echo $V > /v".to_owned()));
    let anew = context.build(&host, json!({"noCache": true}));
    assert!(anew.cached.is_empty() && anew.id != first.id);
    host.call("Image.Prune", json!({"all": true})).unwrap();
}

#[test]
fn the_same_input_at_the_same_time_gives_the_same_image() {
    let Some(host) = Host::new() else { return };
    let context = Context::new(
        "FROM busybox\nCOPY d /d\nRUN mkdir -p /x/y && echo 1 > /x/y/z && rm /etc/group\nWORKDIR /w\nLABEL a=b\n",
    )
    .file("d/a", "1")
    .file("d/b", "2");
    let options = json!({"timestampUSec": 1_700_000_000_000_000_i64, "noCache": true});
    let first = context.build(&host, options.clone());
    context.write("d/a", "1");
    let second = context.build(&host, options);
    assert_eq!(first.id, second.id);
    let config = config(&host, &first.id);
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(
        in_image(&host, &first.id, "stat -c %Y /d/a /x/y/z /w; test -e /etc/group || echo gone"),
        "1700000000\n1700000000\n1700000000\ngone\n"
    );
}

#[test]
fn stages_stand_on_one_another_and_only_what_is_needed_is_built() {
    let Some(host) = Host::new() else { return };
    let context = Context::new(
        "FROM busybox AS tools\nRUN mkdir /out && echo tool > /out/tool && chown 1000:1000 /out/tool && ln -s tool /out/link\n\
         FROM busybox AS never\nRUN exit 7\n\
         FROM tools AS more\nRUN echo more > /out/more\n\
         FROM scratch AS result\nCOPY --from=busybox /bin /bin\nCOPY --from=more /out/ /result/\nCOPY --from=0 /out/tool /by-number\n\
         FROM result AS last\nRUN [\"/bin/sh\", \"-c\", \"cat /result/more\"]\n",
    );
    let told = context.make(&host);
    assert_eq!(told.output, "more\n");
    assert_eq!(
        in_image(
            &host,
            "it",
            "cat /result/link /by-number; stat -c %u:%g /result/tool /result/more; ls /result"
        ),
        "tool\ntool\n1000:1000\n0:0\nlink\nmore\ntool\n"
    );
    let target = context.build(&host, json!({"target": "tools", "tags": ["tools"]}));
    assert!(target.cached.iter().any(|step| step.starts_with("RUN mkdir")), "{target:?}");
    let failing = context.try_build(&host, json!({"target": "never"})).unwrap_err();
    assert_eq!(failing.parameters["line"], 4);
    assert_refused(context.try_build(&host, json!({"target": "missing"})).map(|_| json!({})), "BuildFailed");
}

#[test]
fn stages_that_do_not_need_one_another_are_built_side_by_side() {
    let Some(host) = Host::new() else { return };
    // Each waits for the other one, which only works at the same time.
    let meet = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/meet touch /meet/{own}; until [ -e /meet/{other} ]; do sleep 0.05; done; echo {own} > /{own}\n"
        )
    };
    let text = format!(
        "FROM busybox AS a\n{}FROM busybox AS b\n{}FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
        meet("a", "b"),
        meet("b", "a")
    );
    Context::new(&text).make(&host);
    assert_eq!(
        in_image(&host, "it", "cat /a /b; ls /meet 2>&1; true"),
        "a\nb\nls: /meet: No such file or directory\n"
    );
}

#[test]
fn copies_follow_the_rules() {
    let Some(host) = Host::new() else { return };
    let context = Context::new(
        r#"FROM busybox
COPY *.txt nested /into/
COPY --chown=alice:gamers --chmod=640 a.txt /owned
COPY --chown=7 nested/deep /numbers
COPY ["with space", "/spaced dir/"]
RUN mkdir /real && ln -s /real /link && echo kept > /real/kept
COPY a.txt /link/
COPY nested /link
COPY link-to-a /followed
COPY --exclude=*.log nested /excluded/
COPY . /all/
COPY <<one.txt <<'two.txt' /documents/
the base is $PATH
one.txt
no $expansion
two.txt
COPY <<EOF /named
text
EOF
"#,
    )
    .file("a.txt", "a")
    .file("b.txt", "b")
    .file("c.other", "c")
    .file("nested/n", "n")
    .file("nested/deep/x", "x")
    .file("nested/big.log", "log")
    .file("with space", "s")
    .file("secret/key", "k")
    .file(".containerignore", "secret\n**/*.other\nContainerfile\n");
    std::os::unix::fs::symlink("a.txt", context.path().join("link-to-a")).unwrap();
    context.make(&host);
    let see = |script: &str| in_image(&host, "it", script);
    assert_eq!(see("ls /into /into/deep"), "/into:\na.txt\nb.txt\nbig.log\ndeep\nn\n\n/into/deep:\nx\n");
    assert_eq!(
        see("stat -c '%U:%g %a' /owned; stat -c %u:%g /numbers /numbers/x /into/n"),
        "alice:2000 640\n7:7\n7:7\n0:0\n"
    );
    assert_eq!(
        see("cat '/spaced dir/with space'; ls /real; readlink /link"),
        "sa.txt\nbig.log\ndeep\nkept\nn\n/real\n"
    );
    assert_eq!(see("test -L /followed || cat /followed; ls /excluded"), "adeep\nn\n");
    assert_eq!(
        see("ls -A /all; cat /documents/*; cat /named; readlink /all/link-to-a"),
        "-.containerignore\na.txt\nb.txt\nlink-to-a\nnested\nwith space\n".trim_start_matches('-').to_owned()
            + "the base is /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nno $expansion\ntext\na.txt\n"
    );
}

#[test]
fn add_unpacks_archives_of_the_context() {
    let Some(host) = Host::new() else { return };
    let context =
        Context::new("FROM busybox\nADD packed.tar.gz plain.txt /there/\nCOPY packed.tar.gz /kept.gz\n")
            .file("tree/inside/x", "x\n")
            .file("plain.txt", "p\n");
    let tar = std::process::Command::new("tar")
        .current_dir(context.path())
        .args(["czf", "packed.tar.gz", "-C", "tree", "inside"])
        .status();
    assert!(tar.unwrap().success());
    context.make(&host);
    assert_eq!(
        in_image(&host, "it", "cat /there/inside/x /there/plain.txt; gzip -t /kept.gz && echo gzip"),
        "x\np\ngzip\n"
    );
}

#[test]
fn documents_are_scripts() {
    let Some(host) = Host::new() else { return };
    let context = Context::new(
        "FROM busybox\nRUN <<EOF\nset -e\nA=1\necho $A > /one\nEOF\n\
         RUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"awk\" > \"/two\" }\nEOF\n\
         RUN cat <<A > /three && cat <<-'B' >> /three\n$((1+2))\nA\n\t$not\n\tB\n",
    );
    context.make(&host);
    assert_eq!(
        in_image(&host, "it", "cat /one /two /three; ls /dev/build-script 2>&1; true"),
        "1\nawk\n3\n$not\nls: /dev/build-script: No such file or directory\n"
    );
}

#[test]
fn mounts_are_seen_by_the_command_and_are_in_no_layer() {
    let Some(host) = Host::new() else { return };
    let context = Context::new(
        "FROM busybox AS other\nRUN echo other > /file\n\
         FROM busybox\n\
         RUN --mount=type=bind,source=dir,target=/src cat /src/file && ! touch /src/x 2>/dev/null\n\
         RUN --mount=type=bind,source=dir,target=/src,rw echo changed > /src/file && cat /src/file\n\
         RUN --mount=type=bind,from=other,source=/file,target=/mnt/file cat /mnt/file\n\
         RUN --mount=type=bind,from=busybox,target=/root2 ls /root2/bin/busybox\n\
         RUN --mount=type=tmpfs,target=/fast,size=1m echo x > /fast/x && df /fast | grep -c tmpfs\n\
         RUN --mount=type=secret,id=token,required --mount=type=secret,id=token,target=/token,mode=444,uid=1000 cat /run/secrets/token && stat -c '%a %u' /run/secrets/token /token\n\
         RUN --mount=type=secret,id=missing test ! -e /run/secrets/missing\n\
         RUN --mount=type=cache,id=c,target=/cache n=$(cat /cache/n 2>/dev/null)x; echo $n | tee /cache/n\n",
    )
    .file("dir/file", "context\n");
    let secret = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&secret, b"s3cret\n", 0).unwrap();
    let build = |options: &[&str]| {
        let token = context.path().join("../dormouse-token-of-a-test");
        std::fs::write(&token, "s3cret\n").unwrap();
        let mut command = client(&host);
        command.args(["build", "-t", "it", "--network", "none", "--secret"]);
        command.arg(format!("id=token,src={}", token.display())).args(options).arg(context.path());
        let output = command.output().unwrap();
        std::fs::remove_file(token).unwrap();
        let told = String::from_utf8(output.stderr.clone()).unwrap();
        good(output);
        told.lines().filter(|line| !line.starts_with('[')).collect::<Vec<_>>().join("\n")
    };
    let first = "context\nchanged\nother\n/root2/bin/busybox\n1\ns3cret\n400 0\n444 1000\nx";
    assert_eq!(build(&[]), first);
    assert!(build(&["--no-cache"]).ends_with("444 1000\nxx"), "the cache stays from build to build");
    assert_eq!(
        in_image(&host, "it", "ls -d /src /mnt /root2 /fast /run/secrets /token /cache 2>/dev/null; true"),
        ""
    );
    assert_eq!(std::fs::read_to_string(context.path().join("dir/file")).unwrap(), "context\n");
    let layers =
        std::process::Command::new("grep").args(["-r", "s3cret"]).arg(host.state_dir()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&layers.stdout), "", "a secret is nowhere on the disk");
    let missing = Context::new("FROM busybox\nRUN --mount=type=secret,id=x,required true\n").refused(&host);
    assert!(missing["reason"].as_str().unwrap().contains("no secret \"x\""), "{missing}");
    host.call("Image.Prune", json!({"all": true})).unwrap();
    assert!(std::fs::read_dir(host.state_dir().join("build-caches")).unwrap().next().is_none());
}

#[test]
fn triggers_are_kept_for_the_next_build() {
    let Some(host) = Host::new() else { return };
    Context::new("FROM busybox\nONBUILD COPY app /app\nONBUILD RUN cat /app > /seen\n")
        .build(&host, json!({"tags": ["base"]}));
    assert_eq!(config(&host, "base")["config"]["OnBuild"], json!(["COPY app /app", "RUN cat /app > /seen"]));
    Context::new("FROM base\nRUN echo more >> /seen\n").file("app", "app\n").make(&host);
    assert_eq!(in_image(&host, "it", "cat /seen"), "app\nmore\n");
    assert_eq!(config(&host, "it")["config"]["OnBuild"], json!(null));
}

#[test]
fn squashing_leaves_one_layer_that_shows_the_same() {
    let Some(host) = Host::new() else { return };
    let context = Context::new(
        "FROM busybox\nRUN echo 1 > /one && mkdir /d && echo x > /d/x && rm -r /root\nRUN rm /d/x /etc/group && echo 2 > /d/y\nRUN rm /one && mkdir /one\n",
    );
    context.build(&host, json!({"tags": ["it"], "squash": true}));
    let config = config(&host, "it");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
    assert_eq!(
        in_image(&host, "it", "ls -d /one/ /d/*; ls /etc/group /root /d/x 2>/dev/null; true"),
        "/d/y\n/one/\n"
    );
}

#[test]
fn mistakes_are_told_with_file_line_and_instruction() {
    let Some(host) = Host::new() else { return };
    for (text, line, part) in [
        ("FROM busybox\n\nRUN echo before; echo why >&2; exit 3\n", 3, "exit code 3"),
        ("FROM busybox\nRUN \\\n  no-such-program\n", 2, "exit code 127"),
        ("FROM busybox\nRUN [\"/no/such\"]\n", 2, "no such program"),
        ("FROM busybox\nCOPY missing /x\n", 2, "nothing at \"missing\" in the context"),
        ("FROM busybox\nCOPY ../../../etc/passwd /x\n", 2, "nothing at"),
        ("FROM busybox\nCOPY --from=busybox /missing /x\n", 2, "in the image busybox"),
        ("FROM busybox\nCOPY --chown=nobody-here Containerfile /x\n", 2, "no user \"nobody-here\""),
        ("FROM busybox\nCOPY Containerfile /etc/passwd/x\n", 2, "no directory"),
        ("FROM busybox\nADD https://example.com/x /x\n", 2, "nothing is downloaded"),
        ("FROM busybox\nUSER nobody-here\nRUN true\n", 3, "no user"),
        ("FROM busybox\nSTOPSIGNAL SIGNONE\n", 2, "no signal"),
        ("FROM busybox\nEXPOSE web\n", 2, "no port"),
        ("FROM busybox\nENV A\n", 2, "NAME=value"),
        ("FROM busybox\nRUN --mount=type=what true\n", 2, "type=what"),
        ("FROM busybox\nRUN --mount=type=bind,source=/etc,target=/x cat /x/shadow\n", 2, "of the context"),
        ("FROM busybox\nRUN --network=host true\n", 2, "--network host"),
        ("FROM --platform=linux/s390x busybox\n", 1, "s390x"),
        ("FROM no-such-image-here\n", 1, "no-such-image-here"),
        ("FROM busybox\nBAKE bread\n", 2, "BAKE"),
        ("FROM busybox AS a\nFROM a AS a\n", 2, "already"),
    ] {
        let refusal = Context::new(text).try_build(&host, json!({"pull": "never"})).unwrap_err();
        assert_eq!(refusal.name(), "BuildFailed", "{text}: {refusal:?}");
        assert_eq!(refusal.parameters["line"], line, "{text}: {refusal:?}");
        assert_eq!(refusal.parameters["file"], "Containerfile");
        assert!(refusal.reason().contains(part), "{text}: {refusal:?}");
    }
    let failed = Context::new("FROM busybox\nRUN echo before; echo why >&2; exit 3\n").refused(&host);
    assert!(failed["output"].as_str().unwrap().contains("why"), "{failed}");
    assert!(failed["instruction"].as_str().unwrap().starts_with("RUN echo before"));
    let nothing = Context::new("x");
    std::fs::remove_file(nothing.path().join("Containerfile")).unwrap();
    assert_refused(nothing.try_build(&host, json!({})).map(|_| json!({})), "InvalidSpec");
    assert_refused(host.call("Image.Build", json!({"context": 3})), "InvalidParameter");
    assert_refused(host.call("Image.Build", json!({"contextPath": "relative"})), "InvalidSpec");
}

#[test]
fn a_context_is_a_directory_an_archive_or_nothing() {
    let Some(host) = Host::new() else { return };
    let context = Context::new("FROM busybox\nCOPY x /x\n").file("x", "from the archive\n");
    let mut tar = std::process::Command::new("tar")
        .arg("-C")
        .arg(context.path())
        .args(["-cz", "."])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let built = client(&host)
        .args(["build", "-q", "-t", "it", "--network", "none", "-"])
        .stdin(tar.stdout.take().unwrap())
        .output()
        .unwrap();
    tar.wait().unwrap();
    assert!(good(built).starts_with("sha256:"));
    assert_eq!(in_image(&host, "it", "cat /x"), "from the archive\n");

    let text = context.path().join("alone");
    std::fs::write(&text, "FROM busybox\nRUN echo alone > /alone\n").unwrap();
    let input = std::fs::File::open(&text).unwrap();
    let iid = context.path().join("iid");
    let built = client(&host)
        .args(["build", "-t", "alone", "--network", "none", "--iidfile"])
        .arg(&iid)
        .arg("-")
        .stdin(input)
        .output()
        .unwrap();
    let id = good(built);
    assert_eq!(std::fs::read_to_string(iid).unwrap(), id);
    assert_eq!(in_image(&host, "alone", "cat /alone"), "alone\n");

    let other = client(&host)
        .args(["build", "--network", "none", "-t", "named", "-f", "alone"])
        .arg(context.path())
        .output()
        .unwrap();
    let said = String::from_utf8(other.stderr.clone()).unwrap();
    assert_eq!(good(other), id, "the same steps give the same image");
    assert!(said.contains("[2/2] RUN echo alone > /alone (cached)"), "{said}");
}

#[test]
fn a_volume_is_seen_by_every_run_and_stays() {
    let Some(host) = Host::new() else { return };
    let context =
        Context::new("FROM busybox\nRUN echo one >> /kept/log\nRUN echo two >> /kept/log; ls / > /seen\n");
    let build = |volume: &str| {
        let mut command = client(&host);
        command.args(["build", "-q", "--no-cache", "-t", "it", "--network", "none", "-v", volume]);
        command.arg(context.path()).output().unwrap()
    };
    good(build("kept:/kept"));
    good(build("kept:/kept"));
    let reads = client(&host)
        .args(["run", "--rm", "--network", "none", "-v", "kept:/kept", "busybox", "cat", "/kept/log"])
        .output()
        .unwrap();
    assert_eq!(good(reads), "one\ntwo\none\ntwo");
    assert_eq!(in_image(&host, "it", "ls /kept 2>&1 | grep -c log; cat /seen | grep kept"), "0\nkept\n");
    let refused = build("kept:/kept:ro");
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && why.contains("RUN echo one >> /kept/log"), "{why}");
    let refused = build("no/name:/kept");
    assert!(!refused.status.success(), "{}", String::from_utf8(refused.stderr).unwrap());
    good(client(&host).args(["volume", "rm", "kept"]).output().unwrap());
}

#[test]
fn a_context_that_is_hostile_stays_inside() {
    let Some(host) = Host::new() else { return };
    let context = Context::new("FROM busybox\nCOPY out /copied\nCOPY up/hostname /up\n");
    std::os::unix::fs::symlink("/etc", context.path().join("out")).unwrap();
    std::os::unix::fs::symlink("../../../../etc", context.path().join("up")).unwrap();
    let refusal = context.refused(&host);
    assert_eq!(refusal["line"], 2, "the link leads to the context's own /etc, which is not there: {refusal}");
}

#[test]
fn a_build_without_more_tells_the_result_alone() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let text = "FROM busybox\nRUN echo x > /x\n";
    let reply = host
        .call("Image.Build", json!({"containerfileText": text, "tags": ["it"], "network": "none"}))
        .unwrap();
    assert_eq!(reply["names"], json!(["localhost/it:latest"]));
    assert_eq!(host.names(), Vec::<String>::new(), "no container is left");
    host.call("Image.Remove", json!({"name": "it"})).unwrap();
    host.call("Image.Prune", json!({})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn what_a_step_may_do_is_for_the_caller_to_say() {
    let Some(host) = Host::new() else { return };
    let context =
        Context::new("FROM busybox\nRUN grep CapEff /proc/self/status > /made; df -k /dev/shm >> /made\n");
    let made = |options: Value| {
        let told = context.build(&host, options);
        (in_image(&host, &told.id, "cat /made"), told.cached.len())
    };
    let (usual, cached) = made(json!({}));
    assert_eq!(cached, 0);
    let (bare, cached) =
        made(json!({"dropCapabilities": ["ALL"], "addCapabilities": ["NET_RAW"], "shmSizeBytes": 1 << 20}));
    assert!(bare.contains("CapEff:\t0000000000002000") && bare.contains(" 1024 "), "{bare}");
    assert!(!usual.contains("CapEff:\t0000000000002000") && cached == 0, "{usual}");
    let output = client(&host)
        .args([
            "build",
            "--network",
            "none",
            "--memory",
            "64m",
            "--shm-size",
            "1m",
            "--cap-drop",
            "ALL",
            "--cap-add",
            "NET_RAW",
        ])
        .arg(context.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("cached"), "{output:?}");
    let refused =
        context.try_build(&host, json!({"addCapabilities": ["FLYING"], "noCache": true})).unwrap_err();
    assert!(refused.parameters.to_string().contains("FLYING"), "{refused:?}");
}
