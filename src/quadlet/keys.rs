//! Every key of podman-systemd.unit(5), and what it becomes.
//!
//! Most become a flag of one of our commands. Whether the command has that flag is asked of the command itself
//! ([`crate::cli::has_flag`]): so a key is supported exactly when the flag is there, and reported when it is not.

use super::Kind;

/// What a key becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// `flag VALUE`, of the last assignment.
    Text(&'static str),
    /// `flag VALUE` for each assignment.
    Each(&'static str),
    /// `flag WORD` for each word of each assignment, backslashes kept.
    Words(&'static str),
    /// `flag WORD` for each word, unquoted, with escapes resolved.
    Arguments(&'static str),
    /// `flag KEY=VALUE` for each pair; a later one takes the place of an earlier one.
    Pairs(&'static str),
    /// `flag` if it is true; what it is if false is our default.
    Truth(&'static str),
    /// Code of its own, which needs this flag.
    Special(&'static str),
    /// Code of its own.
    Own,
    /// Nothing here can do it, and why.
    Never(&'static str),
}

use Meaning::{Arguments, Each, Never, Own, Pairs, Special, Text, Truth, Words};

const NO_LABELS: &str = "containers have no labels of SELinux here";
const NO_MODULES: &str = "containers.conf(5) is podman's; write the settings as keys";
const DEPRECATED: &str = "it is deprecated; UserNS=, UIDMap= and GIDMap= say the same";

/// The keys of a section, in the order in which their flags are written.
pub(super) fn keys(kind: Kind) -> &'static [(&'static str, Meaning)] {
    match kind {
        Kind::Container => CONTAINER,
        Kind::Volume => VOLUME,
        Kind::Network => NETWORK,
        Kind::Pod => POD,
        Kind::Image => IMAGE,
        Kind::Build => BUILD,
        Kind::Kube => KUBE,
        Kind::Artifact => ARTIFACT,
    }
}

const CONTAINER: &[(&str, Meaning)] = &[
    ("AddCapability", Words("--cap-add")),
    ("AddDevice", Special("--device")),
    ("AddHost", Each("--add-host")),
    ("Annotation", Pairs("--annotation")),
    ("AppArmor", Special("--security-opt")),
    ("AutoUpdate", Special("--label")),
    ("CgroupsMode", Own),
    ("ContainerName", Own),
    ("ContainersConfModule", Never(NO_MODULES)),
    ("DNS", Each("--dns")),
    ("DNSOption", Each("--dns-option")),
    ("DNSSearch", Each("--dns-search")),
    ("DropCapability", Words("--cap-drop")),
    ("Entrypoint", Special("--entrypoint")),
    ("Environment", Pairs("--env")),
    ("EnvironmentFile", Special("--env-file")),
    ("EnvironmentHost", Truth("--env-host")),
    ("Exec", Own),
    ("ExposeHostPort", Each("--expose")),
    ("GIDMap", Words("--gidmap")),
    ("GlobalArgs", Own),
    ("Group", Own),
    ("GroupAdd", Each("--group-add")),
    ("HealthCmd", Text("--health-cmd")),
    ("HealthInterval", Text("--health-interval")),
    ("HealthLogDestination", Text("--health-log-destination")),
    ("HealthMaxLogCount", Text("--health-max-log-count")),
    ("HealthMaxLogSize", Text("--health-max-log-size")),
    ("HealthOnFailure", Text("--health-on-failure")),
    ("HealthRetries", Text("--health-retries")),
    ("HealthStartPeriod", Text("--health-start-period")),
    ("HealthStartupCmd", Text("--health-startup-cmd")),
    ("HealthStartupInterval", Text("--health-startup-interval")),
    ("HealthStartupRetries", Text("--health-startup-retries")),
    ("HealthStartupSuccess", Text("--health-startup-success")),
    ("HealthStartupTimeout", Text("--health-startup-timeout")),
    ("HealthTimeout", Text("--health-timeout")),
    ("HostName", Text("--hostname")),
    ("HttpProxy", Truth("--http-proxy")),
    ("IP", Text("--ip")),
    ("IP6", Text("--ip6")),
    ("Image", Own),
    ("Label", Pairs("--label")),
    ("LogDriver", Special("--log-driver")),
    ("LogOpt", Words("--log-opt")),
    ("Mask", Special("--security-opt")),
    ("Memory", Text("--memory")),
    ("Mount", Special("--mount")),
    ("Network", Special("--network")),
    ("NetworkAlias", Each("--network-alias")),
    ("NoNewPrivileges", Special("--security-opt")),
    ("Notify", Special("--sdnotify")),
    ("PidsLimit", Text("--pids-limit")),
    ("Pod", Special("--pod")),
    ("PodmanArgs", Own),
    ("PublishPort", Each("--publish")),
    ("Pull", Special("--pull")),
    ("ReadOnly", Special("--read-only")),
    ("ReadOnlyTmpfs", Special("--tmpfs")),
    ("ReloadCmd", Own),
    ("ReloadSignal", Own),
    ("RemapGid", Never(DEPRECATED)),
    ("RemapUid", Never(DEPRECATED)),
    ("RemapUidSize", Never(DEPRECATED)),
    ("RemapUsers", Never(DEPRECATED)),
    ("Retry", Text("--retry")),
    ("RetryDelay", Text("--retry-delay")),
    ("Rootfs", Special("--rootfs")),
    ("RunInit", Truth("--init")),
    ("SeccompProfile", Special("--security-opt")),
    ("Secret", Arguments("--secret")),
    ("SecurityLabelDisable", Special("--security-opt")),
    ("SecurityLabelFileType", Never(NO_LABELS)),
    ("SecurityLabelLevel", Never(NO_LABELS)),
    ("SecurityLabelNested", Never(NO_LABELS)),
    ("SecurityLabelType", Never(NO_LABELS)),
    ("ServiceName", Own),
    ("ShmSize", Text("--shm-size")),
    ("StartWithPod", Special("--pod")),
    ("StopSignal", Text("--stop-signal")),
    ("StopTimeout", Text("--stop-timeout")),
    ("SubGIDMap", Text("--subgidname")),
    ("SubUIDMap", Text("--subuidname")),
    ("Sysctl", Words("--sysctl")),
    ("Timezone", Text("--tz")),
    ("Tmpfs", Each("--tmpfs")),
    ("UIDMap", Words("--uidmap")),
    ("Ulimit", Each("--ulimit")),
    ("Unmask", Special("--security-opt")),
    ("User", Special("--user")),
    ("UserNS", Text("--userns")),
    ("VolatileTmp", Special("--tmpfs")),
    ("Volume", Special("--volume")),
    ("WorkingDir", Text("--workdir")),
];

const VOLUME: &[(&str, Meaning)] = &[
    ("ContainersConfModule", Never(NO_MODULES)),
    ("Copy", Special("--opt")),
    ("Device", Special("--opt")),
    ("Driver", Text("--driver")),
    ("GlobalArgs", Own),
    ("Group", Special("--opt")),
    ("Image", Special("--opt")),
    ("Label", Pairs("--label")),
    ("Options", Special("--opt")),
    ("PodmanArgs", Own),
    ("ServiceName", Own),
    ("Type", Special("--opt")),
    ("User", Special("--opt")),
    ("VolumeName", Own),
];

const NETWORK: &[(&str, Meaning)] = &[
    ("ContainersConfModule", Never(NO_MODULES)),
    ("DNS", Each("--dns")),
    ("DisableDNS", Truth("--disable-dns")),
    ("Driver", Text("--driver")),
    ("Gateway", Special("--gateway")),
    ("GlobalArgs", Own),
    ("IPAMDriver", Own),
    ("IPRange", Special("--ip-range")),
    ("IPv6", Truth("--ipv6")),
    ("InterfaceName", Text("--interface")),
    ("Internal", Truth("--internal")),
    ("Label", Pairs("--label")),
    ("NetworkDeleteOnStop", Own),
    ("NetworkName", Own),
    ("Options", Own),
    ("PodmanArgs", Own),
    ("ServiceName", Own),
    ("Subnet", Special("--subnet")),
];

const POD: &[(&str, Meaning)] = &[
    ("AddHost", Each("--add-host")),
    ("ContainersConfModule", Never(NO_MODULES)),
    ("DNS", Each("--dns")),
    ("DNSOption", Each("--dns-option")),
    ("DNSSearch", Each("--dns-search")),
    ("ExitPolicy", Text("--exit-policy")),
    ("GIDMap", Words("--gidmap")),
    ("GlobalArgs", Own),
    ("HostName", Text("--hostname")),
    ("IP", Text("--ip")),
    ("IP6", Text("--ip6")),
    ("Label", Pairs("--label")),
    ("Network", Special("--network")),
    ("NetworkAlias", Each("--network-alias")),
    ("PodName", Own),
    ("PodmanArgs", Own),
    ("PublishPort", Each("--publish")),
    ("RemapGid", Never(DEPRECATED)),
    ("RemapUid", Never(DEPRECATED)),
    ("RemapUidSize", Never(DEPRECATED)),
    ("RemapUsers", Never(DEPRECATED)),
    ("ServiceName", Own),
    ("ShmSize", Text("--shm-size")),
    ("StopTimeout", Own),
    ("SubGIDMap", Text("--subgidname")),
    ("SubUIDMap", Text("--subuidname")),
    ("UIDMap", Words("--uidmap")),
    ("UserNS", Text("--userns")),
    ("Volume", Special("--volume")),
];

const IMAGE: &[(&str, Meaning)] = &[
    ("AllTags", Truth("--all-tags")),
    ("Arch", Special("--platform")),
    ("AuthFile", Text("--authfile")),
    ("CertDir", Text("--cert-dir")),
    ("ContainersConfModule", Never(NO_MODULES)),
    ("Creds", Never("a unit's command line is no place for a password; use `dormouse login`")),
    ("DecryptionKey", Text("--decryption-key")),
    ("GlobalArgs", Own),
    ("Image", Own),
    ("ImageTag", Own),
    ("OS", Special("--platform")),
    ("PodmanArgs", Own),
    ("Policy", Special("--policy")),
    ("Retry", Text("--retry")),
    ("RetryDelay", Text("--retry-delay")),
    ("ServiceName", Own),
    ("TLSVerify", Own),
    ("Variant", Special("--platform")),
];

const BUILD: &[(&str, Meaning)] = &[
    ("Annotation", Pairs("--annotation")),
    ("Arch", Special("--platform")),
    ("AuthFile", Text("--authfile")),
    ("BuildArg", Pairs("--build-arg")),
    ("ContainersConfModule", Never(NO_MODULES)),
    ("DNS", Each("--dns")),
    ("DNSOption", Each("--dns-option")),
    ("DNSSearch", Each("--dns-search")),
    ("Environment", Pairs("--env")),
    ("File", Special("--file")),
    ("ForceRM", Own),
    ("GlobalArgs", Own),
    ("GroupAdd", Each("--group-add")),
    ("IgnoreFile", Text("--ignorefile")),
    ("ImageTag", Each("--tag")),
    ("Label", Pairs("--label")),
    ("Network", Special("--network")),
    ("PodmanArgs", Own),
    ("Pull", Special("--pull")),
    ("Retry", Text("--retry")),
    ("RetryDelay", Text("--retry-delay")),
    ("Secret", Arguments("--secret")),
    ("ServiceName", Own),
    ("SetWorkingDirectory", Own),
    ("TLSVerify", Own),
    ("Target", Text("--target")),
    ("Variant", Special("--platform")),
    ("Volume", Special("--volume")),
];

const KUBE: &[(&str, Meaning)] = &[
    ("AutoUpdate", Own),
    ("ConfigMap", Special("--configmap")),
    ("ContainersConfModule", Never(NO_MODULES)),
    ("ExitCodePropagation", Special("--service-exit-code-propagation")),
    ("GlobalArgs", Own),
    ("KubeDownForce", Own),
    ("LogDriver", Special("--log-driver")),
    ("LogOpt", Words("--log-opt")),
    ("Network", Special("--network")),
    ("PodmanArgs", Own),
    ("PublishPort", Each("--publish")),
    ("RemapGid", Never(DEPRECATED)),
    ("RemapUid", Never(DEPRECATED)),
    ("RemapUidSize", Never(DEPRECATED)),
    ("RemapUsers", Never(DEPRECATED)),
    ("ServiceName", Own),
    ("SetWorkingDirectory", Own),
    ("UserNS", Text("--userns")),
    ("Yaml", Own),
];

const ARTIFACT: &[(&str, Meaning)] = &[
    ("Artifact", Own),
    ("AuthFile", Text("--authfile")),
    ("CertDir", Text("--cert-dir")),
    ("ContainersConfModule", Never(NO_MODULES)),
    ("Creds", Own),
    ("DecryptionKey", Text("--decryption-key")),
    ("GlobalArgs", Own),
    ("PodmanArgs", Own),
    ("Quiet", Truth("--quiet")),
    ("Retry", Text("--retry")),
    ("RetryDelay", Text("--retry-delay")),
    ("ServiceName", Own),
    ("TLSVerify", Truth("--tls-verify")),
];

/// The keys of the section `[Quadlet]`, which any file may have.
pub(super) const COMMON: &[&str] = &["DefaultDependencies"];

impl Meaning {
    /// The flag that must be there.
    pub(super) fn flag(self) -> Option<&'static str> {
        match self {
            Text(flag) | Each(flag) | Words(flag) | Arguments(flag) | Pairs(flag) | Truth(flag)
            | Special(flag) => Some(flag),
            Own | Never(_) => None,
        }
    }
}

/// Why a key of this kind can't be done, if it can't.
pub(super) fn unsupported(kind: Kind, meaning: Meaning) -> Option<String> {
    if let Never(why) = meaning {
        return Some(why.to_owned());
    }
    let flag = meaning.flag()?;
    (!crate::cli::has_flag(kind.verb(), flag))
        .then(|| format!("dormouse {} has no {flag}", kind.verb().join(" ")))
}
