//! The manifests of `deploy/kubernetes` and the image of `deploy/container`: valid by the schemas of Kubernetes,
//! hardened, and in agreement with each other, with the README and with the daemon that they configure.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::prelude::*;

/// The oldest version that the README names, and the newest whose schemas there are.
const VERSIONS: [&str; 2] = ["1.27.0", "1.37.0"];

/// What Kubernetes itself has no schema of.
const FOREIGN: &str = "kind: ServiceMonitor\n";

/// What `distroless/cc` has of what a binary of Rust may need: the packages libc6 and libgcc-s1.
const LIBRARIES: [&str; 7] =
    ["ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether these programs are installed; if not, says so aloud, and CI must have them.
fn installed(programs: &[&str]) -> bool {
    let starts = |program: &str| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let missing: Vec<&&str> = programs.iter().filter(|program| !starts(program)).collect();
    let ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(missing.is_empty() || !ci, "{missing:?} is missing, and CI needs it");
    if !missing.is_empty() {
        eprintln!("SKIPPED: there is no {missing:?} here");
    }
    missing.is_empty()
}

/// Runs a program on this input; no cluster is known to it.
fn fed(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("KUBECONFIG", "/dev/null").current_dir(repository());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is installed");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What it prints; it must succeed.
fn done(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The manifests that `kubectl apply -k` would apply.
fn built(folder: &Path) -> String {
    done(fed("kubectl", &["kustomize", folder.to_str().unwrap()], ""))
}

fn base() -> String {
    built(&repository().join("deploy/kubernetes"))
}

/// YAML documents as values.
fn objects(manifests: &str) -> Vec<Value> {
    let printed = done(fed("kubectl", &["label", "--local", "-f", "-", "-o", "json", "read=yes"], manifests));
    let objects = serde_json::Deserializer::from_str(&printed).into_iter::<Value>();
    objects.map(|object| object.unwrap()).collect()
}

/// The one object of this kind.
fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "objects of kind {kind}");
    found[0]
}

fn at<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    object.pointer(pointer).unwrap_or_else(|| panic!("there is no {pointer} in {object:#}"))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    at(object, pointer).as_str().unwrap_or_else(|| panic!("{pointer} is no text in {object:#}"))
}

/// Looks at every document by the schemas of a version; what is wrong, or how many documents were right.
fn validated(manifests: &str, version: &str) -> Result<usize, String> {
    let output = fed("kubernetes-validate", &["--strict", "--kubernetes-version", version, "/dev/stdin"], manifests);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    match output.status.success() {
        true => Ok(said.matches(" passed for resource ").count()),
        false => Err(said),
    }
}

/// The README's code block of this language in which this text is.
fn in_readme(language: &str, containing: &str) -> String {
    let (readme, fence) = (read("README.md"), format!("```{language}\n"));
    let blocks = readme.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    let found: Vec<&str> = blocks.filter(|block| block.contains(containing)).collect();
    assert_eq!(found.len(), 1, "blocks of {language} with {containing}");
    found[0].to_owned()
}

/// A clone of the repository, as far as it concerns Kubernetes, and beside it a stream's folder as the README has it.
fn a_stream_of_the_readme(dir: &Path, toml: &str) -> PathBuf {
    let (clone, stream) = (dir.join("walferry/deploy"), dir.join("shop"));
    std::fs::create_dir_all(&clone).unwrap();
    std::fs::create_dir_all(&stream).unwrap();
    let copied = Command::new("cp").arg("-R").arg(repository().join("deploy/kubernetes")).arg(&clone).status().unwrap();
    assert!(copied.success());
    std::fs::write(stream.join("kustomization.yaml"), in_readme("yaml", "configMapGenerator")).unwrap();
    std::fs::write(stream.join("walferry.toml"), toml).unwrap();
    stream
}

/// `walferry.toml` of the ConfigMap as it is in a pod, but that the Secret's files are in this directory. They hold
/// these secrets, by their names.
fn configured(objects: &[Value], dir: &Path, secrets: &[(String, String)]) -> String {
    let toml = text(one(objects, "ConfigMap"), "/data/walferry.toml");
    let container = at(one(objects, "Deployment"), "/spec/template/spec/containers/0");
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mounted = mounts.iter().find(|mount| mount["name"] == "secrets").expect("the Secret is mounted");
    let mounted = text(mounted, "/mountPath");
    assert_eq!(toml.matches(mounted).count(), secrets.len(), "{toml}");
    for (name, secret) in secrets {
        assert!(toml.contains(&format!("\"{mounted}/{name}\"")), "nothing names {name}: {toml}");
        std::fs::write(dir.join(name), format!("{secret}\n")).unwrap();
    }
    toml.replace(mounted, dir.to_str().unwrap())
}

/// The Secret of the example, by name.
fn example_secrets() -> Vec<(String, String)> {
    let example = objects(&read("deploy/kubernetes/secret.example.yaml"));
    let secrets = at(&example[0], "/stringData").as_object().unwrap();
    secrets.iter().map(|(name, url)| (name.clone(), url.as_str().unwrap().to_owned())).collect()
}

/// What `walferry config` makes of the ConfigMap.
fn resolved(objects: &[Value]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("walferry.toml");
    std::fs::write(&file, configured(objects, dir.path(), &example_secrets())).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_walferry")).arg("config").arg("-c").arg(file).arg("--json").output();
    serde_json::from_str(&done(output.unwrap())).unwrap()
}

#[test]
fn kubernetes_finds_nothing_wrong_with_any_manifest() {
    if !installed(&["kubectl", "kubernetes-validate"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stream = built(&a_stream_of_the_readme(dir.path(), "[source]\n"));
    let (foreign, own): (Vec<&str>, Vec<&str>) = stream.split("---\n").partition(|part| part.contains(FOREIGN));
    assert_eq!((foreign.len(), own.len()), (1, 5));
    for version in VERSIONS {
        assert_eq!(validated(&base(), version), Ok(5), "{version}");
        assert_eq!(validated(&own.join("---\n"), version), Ok(5), "{version}");
        assert_eq!(validated(&read("deploy/kubernetes/secret.example.yaml"), version), Ok(1), "{version}");
    }
}

#[test]
fn a_misspelt_field_and_a_value_of_a_wrong_type_are_found() {
    if !installed(&["kubectl", "kubernetes-validate"]) {
        return;
    }
    let right = base();
    let harms = [
        ("readOnlyRootFilesystem:", "readOnlyRootFileSystem:", "readOnlyRootFileSystem"),
        ("replicas: 2", "replicas: two", "two"),
        ("  clusterIP: None", "  clusterIp: None", "clusterIp"),
        ("  podSelector:", "  podSelektor:", "podSelektor"),
    ];
    for (from, to, named) in harms {
        assert!(right.contains(from), "{from}");
        let said = validated(&right.replace(from, to), VERSIONS[1]).expect_err(to);
        assert!(said.contains(named), "{to}: {said}");
    }
}

#[test]
fn another_stream_made_as_the_readme_has_it_is_applied_with_its_own_configuration() {
    if !installed(&["kubectl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let toml = "[source]\nslot = \"shop\"\n";
    let stream = objects(&built(&a_stream_of_the_readme(dir.path(), toml)));
    for object in &stream {
        assert_eq!(text(object, "/metadata/namespace"), "shop");
    }
    let (config, deployment) = (one(&stream, "ConfigMap"), one(&stream, "Deployment"));
    assert_eq!(text(config, "/data/walferry.toml"), toml);
    let pod = at(deployment, "/spec/template/spec");
    let mounted = text(pod, "/volumes/0/configMap/name");
    assert_eq!(mounted, text(config, "/metadata/name"));
    assert_ne!(mounted, text(one(&objects(&base()), "ConfigMap"), "/metadata/name"), "a change must replace the pods");

    let image = text(pod, "/containers/0/image");
    assert_eq!(image, format!("registry.shop.example/walferry:{}", env!("CARGO_PKG_VERSION")));
    let commands = in_readme("sh", "podman build");
    assert!(commands.contains(&format!("-t {image} ")), "{commands}");

    let (monitor, service) = (one(&stream, "ServiceMonitor"), one(&stream, "Service"));
    let name = "/app.kubernetes.io~1name";
    let selector = at(monitor, "/spec/selector/matchLabels");
    assert_eq!(selector.as_object().unwrap().len(), 1);
    assert_eq!(text(selector, name), text(at(service, "/metadata/labels"), name));
    assert_eq!(at(monitor, "/spec/endpoints/0/port"), at(service, "/spec/ports/0/name"));
}

#[test]
fn the_readme_makes_a_prometheusrule_of_all_alerts() {
    if !installed(&["kubectl"]) {
        return;
    }
    let (apply, print) = ("kubectl apply -n shop -f -", "cat");
    let command = in_readme("sh", "PrometheusRule");
    assert!(command.contains(apply), "{command}");
    let rule = objects(&done(fed("sh", &["-c", &command.replace(apply, print)], "")));
    let rule = one(&rule, "PrometheusRule");
    let groups = at(rule, "/spec/groups").as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let alerts: Vec<&str> = rules.map(|rule| text(rule, "/alert")).collect();
    let file = read("deploy/prometheus/alerts.yaml");
    let wanted: Vec<&str> = file.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(wanted.len() > 5 && alerts == wanted, "{alerts:?}");
}

#[test]
fn walferry_accepts_the_configuration_with_the_secrets_of_the_example() {
    if !installed(&["kubectl"]) {
        return;
    }
    let manifests = objects(&base());
    let config = resolved(&manifests);
    let listen: SocketAddr = text(&config, "/http/listen").parse().unwrap();
    assert!(listen.ip().is_unspecified(), "nobody outside of the pod reaches {listen}");

    let pod = at(one(&manifests, "Deployment"), "/spec/template/spec");
    let drain = humantime::parse_duration(text(&config, "/apply/drain_timeout")).unwrap();
    let grace = at(pod, "/terminationGracePeriodSeconds").as_u64().unwrap();
    assert!(grace > drain.as_secs() + 5, "killed after {grace} s, while it may drain for {drain:?}");
    // Nothing that could be somebody's: names that RFC 2606 keeps free.
    for (name, url) in example_secrets().into_iter().filter(|(name, _)| name != "token") {
        assert!(url.contains(":PASSWORD@") && url.contains(".example/"), "{name}: {url}");
    }
}

#[tokio::test]
async fn an_active_and_a_standby_daemon_answer_what_the_manifests_ask_them() {
    if !installed(&["kubectl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let stream = objects(&built(&a_stream_of_the_readme(dir.path(), &read("deploy/kubernetes/walferry.toml"))));
    let container = at(one(&stream, "Deployment"), "/spec/template/spec/containers/0");
    let port = at(container, "/ports/0/containerPort").as_u64().unwrap();

    let stage = Stage::new(1).await;
    let secrets = [("source-url", &stage.from.url), ("staging-url", &stage.places[0].db.url)];
    let token = &"a-token-of-some-length".to_owned();
    let secrets = [secrets[0], secrets[1], ("token", token)].map(|(name, secret)| (name.to_owned(), secret.clone()));
    let config = configured(&stream, dir.path(), &secrets);
    let daemon = || {
        let mut daemon = stage.daemon().prepare();
        std::fs::write(daemon.config_path(), &config).unwrap();
        // Two pods have an address each, two daemons here have a port each.
        daemon.reconfigure(&format!(":{port}\""), &format!(":{}\"", daemon.port));
        daemon.start();
        daemon
    };
    let mut active = daemon();
    active.wait_ready(seconds(60)).await;
    let mut standby = daemon();
    standby.wait_metric("walferry_source_state", &[("state", "standby")], |value| value == 1.0, seconds(30)).await;

    let mut asked = vec![text(one(&stream, "ServiceMonitor"), "/spec/endpoints/0/path")];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(text(container, &format!("/{probe}/httpGet/port")), "http");
        asked.push(text(container, &format!("/{probe}/httpGet/path")));
    }
    for path in asked {
        for daemon in [&active, &standby] {
            let (code, body) = daemon.get(path).await.unwrap();
            assert_eq!(code, 200, "{path}: {body}");
        }
    }
    // A machine needs no token, a person does; and so does a command, which is given where the token is.
    assert_eq!(active.get("/").await.unwrap().0, 401);
    assert_eq!(active.answered(&["config", "--diff"]).await.0, Some(0));
    assert_eq!(active.log_count("may read the names"), 0);
    // It is the standby that the question is about.
    assert_eq!(standby.get("/readyz").await.unwrap().0, 503);
    active.kill9();
    stage.assert_follows(0, 1).await;
    assert!(standby.terminate(seconds(20)).await.success());
}

#[test]
fn everything_meets_at_one_port_and_everybody_selects_the_pods() {
    if !installed(&["kubectl"]) {
        return;
    }
    let manifests = objects(&base());
    let listen: SocketAddr = text(&resolved(&manifests), "/http/listen").parse().unwrap();
    let [deployment, service, policy, budget] =
        ["Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"].map(|kind| one(&manifests, kind));
    let container = at(deployment, "/spec/template/spec/containers/0");
    assert_eq!(container["ports"], json!([{ "name": "http", "containerPort": listen.port() }]));
    assert_eq!(service["spec"]["ports"], json!([{ "name": "http", "port": listen.port(), "targetPort": "http" }]));
    assert_eq!(at(policy, "/spec/ingress/0/ports"), &json!([{ "port": "http", "protocol": "TCP" }]));
    let egress = json!([
        { "ports": [{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }] },
        { "ports": [{ "port": 5432, "protocol": "TCP" }] },
    ]);
    assert_eq!(at(policy, "/spec/egress"), &egress);

    let labels = at(deployment, "/spec/template/metadata/labels");
    assert!(labels.as_object().is_some_and(|labels| !labels.is_empty()));
    let selectors = [
        at(deployment, "/spec/selector/matchLabels"),
        at(deployment, "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels"),
        at(deployment, "/spec/template/spec/topologySpreadConstraints/1/labelSelector/matchLabels"),
        at(service, "/spec/selector"),
        at(policy, "/spec/podSelector/matchLabels"),
        at(budget, "/spec/selector/matchLabels"),
    ];
    for selector in selectors {
        assert_eq!(selector, labels);
    }
}

#[test]
fn the_pods_may_do_nothing_that_they_need_not() {
    if !installed(&["kubectl"]) {
        return;
    }
    let manifests = objects(&base());
    let deployment = one(&manifests, "Deployment");
    let (pod, container) = ("/spec/template/spec", "/spec/template/spec/containers/0");
    let wanted = [
        ("/spec", "/replicas", json!(2)),
        (
            "/spec",
            "/strategy",
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } }),
        ),
        (pod, "/automountServiceAccountToken", json!(false)),
        (pod, "/enableServiceLinks", json!(false)),
        (pod, "/securityContext/runAsNonRoot", json!(true)),
        (pod, "/securityContext/runAsUser", json!(65532)),
        (pod, "/securityContext/runAsGroup", json!(65532)),
        (pod, "/securityContext/fsGroup", json!(65532)),
        (pod, "/securityContext/seccompProfile", json!({ "type": "RuntimeDefault" })),
        (pod, "/topologySpreadConstraints/0/topologyKey", json!("kubernetes.io/hostname")),
        // For the owner and the group to read.
        (pod, "/volumes/1/secret/defaultMode", json!(0o440)),
        (container, "/securityContext/allowPrivilegeEscalation", json!(false)),
        (container, "/securityContext/readOnlyRootFilesystem", json!(true)),
        (container, "/securityContext/capabilities", json!({ "drop": ["ALL"] })),
        (container, "/resources/requests/memory", json!("128Mi")),
        (container, "/resources/limits", json!({ "memory": "256Mi" })),
        (container, "/volumeMounts/0/readOnly", json!(true)),
        (container, "/volumeMounts/1/readOnly", json!(true)),
    ];
    for (place, pointer, value) in wanted {
        assert_eq!(deployment.pointer(&format!("{place}{pointer}")), Some(&value), "{place}{pointer}");
    }
    let keys: BTreeSet<&String> = at(deployment, pod).as_object().unwrap().keys().collect();
    assert!(!keys.iter().any(|key| key.starts_with("host")), "{keys:?}");
    assert_eq!(at(deployment, &format!("{pod}/containers")).as_array().unwrap().len(), 1);
    let budget = one(&manifests, "PodDisruptionBudget");
    assert_eq!(at(budget, "/spec/maxUnavailable"), &json!(1));
    assert_eq!(at(budget, "/spec/unhealthyPodEvictionPolicy"), &json!("AlwaysAllow"));
}

/// The words of a Containerfile's instruction, in each place.
fn instructions<'a>(containerfile: &'a str, name: &str) -> Vec<&'a str> {
    containerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect()
}

#[test]
fn the_image_starts_what_the_manifests_start() {
    if !installed(&["kubectl"]) {
        return;
    }
    let containerfile = read("deploy/container/Containerfile");
    let manifests = objects(&base());
    let pod = at(one(&manifests, "Deployment"), "/spec/template/spec");
    let container = at(pod, "/containers/0");
    let entrypoint = instructions(&containerfile, "ENTRYPOINT");
    assert!(entrypoint == ["[\"/usr/bin/walferry\"]"] && container.get("command").is_none(), "{entrypoint:?}");
    let command: Vec<String> = serde_json::from_str(instructions(&containerfile, "CMD")[0]).unwrap();
    let arguments: Vec<&str> = at(container, "/args").as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    assert_eq!(arguments, ["run", "--config", &command[2]]);
    assert_eq!(command[..2], ["run", "-c"]);
    let mounted = text(container, "/volumeMounts/0/mountPath");
    assert_eq!(command[2], format!("{mounted}/walferry.toml"), "where the ConfigMap's file is");

    let [user, group] = ["runAsUser", "runAsGroup"].map(|key| at(pod, &format!("/securityContext/{key}")));
    assert_eq!(instructions(&containerfile, "USER"), [format!("{user}:{group}")]);
    assert_eq!(instructions(&containerfile, "STOPSIGNAL"), ["SIGTERM"]);
    assert_eq!(instructions(&containerfile, "ARG"), [concat!("RUST=", env!("CARGO_PKG_RUST_VERSION"))]);
    assert!(containerfile.contains(concat!("licenses=\"", env!("CARGO_PKG_LICENSE"), "\"")));
}

#[test]
fn the_image_is_built_of_what_is_let_in_and_of_all_that_the_source_includes() {
    let containerfile = read("deploy/container/Containerfile");
    let copies = instructions(&containerfile, "COPY").into_iter().filter(|copy| !copy.starts_with("--from="));
    let copied: BTreeSet<&str> = copies.flat_map(|copy| copy.rsplit_once(' ').unwrap().0.split(' ')).collect();
    let ignore = read(".containerignore");
    let let_in: BTreeSet<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*"));
    assert_eq!(copied, let_in);

    let mut folders = vec![repository().join("src")];
    let mut includes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let source = std::fs::read_to_string(&entry).unwrap();
            for included in source.split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let path = folder.join(included).canonicalize().unwrap();
                let path = path.strip_prefix(repository().canonicalize().unwrap()).unwrap();
                assert!(copied.iter().any(|copied| path.starts_with(copied)), "{} is not copied", path.display());
                includes += 1;
            }
        }
    }
    assert!(includes > 2, "{includes}");
}

#[test]
fn the_binary_needs_no_library_that_the_image_lacks() {
    if !installed(&["readelf"]) {
        return;
    }
    let read = Command::new("readelf").args(["--dynamic", "--wide", env!("CARGO_BIN_EXE_walferry")]).output().unwrap();
    let printed = done(read);
    let names =
        printed.lines().filter(|line| line.contains("(NEEDED)")).filter_map(|line| line.split(['[', ']']).nth(1));
    let needed: BTreeSet<&str> = names.collect();
    let known = BTreeSet::from(LIBRARIES);
    assert!(needed.contains("libc.so.6") && needed.is_subset(&known), "{:?}", needed.difference(&known));
}
