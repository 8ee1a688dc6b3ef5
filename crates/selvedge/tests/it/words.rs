//! What the command line says when something is wrong: every way to fail, in snapshots to be read.
//!
//! Each failure is shown as a user sees it, with its exit code. Nothing that a machine or a run
//! makes different is in a snapshot: directories, ports, processes, times and releases are named.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use tokio::process::Command;

use crate::harness::repository::Repository;
use crate::harness::{PATIENCE, Planet, can_isolate, eventually};

/// Failures as they are told, one after the other.
struct Tale {
    scratch: tempfile::TempDir,
    /// What is different in each run, and its name.
    names: Vec<(String, String)>,
    text: String,
}

impl Tale {
    fn new() -> Self {
        let scratch = tempfile::Builder::new().prefix("selvedge-words-").tempdir().unwrap();
        let names = vec![
            (scratch.path().display().to_string(), "DIR".to_owned()),
            (env!("CARGO_BIN_EXE_selvedge").to_owned(), "selvedge".to_owned()),
        ];
        Self { scratch, names, text: String::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn name(&mut self, found: impl ToString, name: &str) {
        self.names.push((found.to_string(), name.to_owned()));
    }

    /// A command of which nothing but this test knows, in `directory` of the scratch directory.
    fn selvedge(&self, directory: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command
            .args(arguments)
            .current_dir(self.path(directory))
            .env_clear()
            .env("HOME", self.scratch.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("GIT_CEILING_DIRECTORIES", self.scratch.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command, which must fail, and tells what it said.
    async fn tell(&mut self, title: &str, command: &mut Command) -> Output {
        let run = command.kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, run).await.expect(title).unwrap();
        self.add(title, command, &output);
        assert!(!output.status.success(), "{title}: succeeded:\n{}", self.text);
        output
    }

    fn add(&mut self, title: &str, command: &Command, output: &Output) {
        let command = command.as_std();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        let code = output.status.code().map_or("a signal".to_owned(), |code| code.to_string());
        let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
        let told = format!("# {title}\n$ {}\n{}{}", line.join(" "), said[0], said[1]);
        assert!(!told.contains("os error") && !told.contains("panicked"), "{told}");
        self.text.push_str(&self.plain(told.trim_end()));
        self.text.push_str(&format!("\n[{code}]\n\n"));
    }

    fn plain(&self, told: &str) -> String {
        let named = self
            .names
            .iter()
            .fold(told.to_owned(), |told, (found, name)| told.replace(found, name));
        named
            .lines()
            .map(|line| same_in_every_run(line) + "\n")
            .collect::<String>()
            .trim_end()
            .to_owned()
    }
}

/// A line with its times and commits named.
fn same_in_every_run(line: &str) -> String {
    let words = line.trim_end().split(' ').map(|word| {
        let core = word.trim_end_matches([',', '.', ':']);
        let digits = core.chars().all(|c| c.is_ascii_hexdigit());
        if digits && (7..=12).contains(&core.len()) && core.contains(|c: char| c.is_ascii_digit()) {
            return word.replace(core, "ID");
        }
        match core.split_once('.') {
            Some((whole, tenths)) if tenths.len() == 1 && whole.parse::<u32>().is_ok() => {
                word.replace(core, "N")
            }
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

const APP: &str =
    "[app]\nname = \"shop\"\n\n[[service]]\nname = \"web\"\nkind = \"static\"\nroot = \".\"\n";

async fn git(directory: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@example.com", "-C"])
        .arg(directory)
        .args(arguments)
        .stdout(Stdio::null())
        .status();
    assert!(status.await.unwrap().success(), "git {arguments:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_runs() {
    let mut tale = Tale::new();
    for directory in ["empty", "fresh", "app", "broken", "misspelt", "gone"] {
        std::fs::create_dir(tale.path(directory)).unwrap();
    }
    for repository in ["fresh", "app", "misspelt"] {
        git(&tale.path(repository), &["init", "--quiet", "--initial-branch=main"]).await;
    }
    std::fs::write(tale.path("app/selvedge.toml"), APP).unwrap();
    std::fs::write(tale.path("broken/selvedge.toml"), "[app\nname = 1\n").unwrap();
    let misspelt = APP.replace("name = \"shop\"", "nmae = \"shop\"").replace("static", "statik");
    std::fs::write(tale.path("misspelt/selvedge.toml"), misspelt).unwrap();

    repositories_and_files(&mut tale).await;
    arguments(&mut tale).await;
    servers_that_can_not_start(&mut tale).await;
    insta::assert_snapshot!("where_nothing_runs", tale.text);
}

async fn repositories_and_files(tale: &mut Tale) {
    let mut command = tale.selvedge("app", &["deploy"]);
    tale.tell("no git", command.env("PATH", "/nowhere")).await;
    let mut command = tale.selvedge("empty", &["deploy"]);
    tale.tell("not a repository", &mut command).await;
    let mut command = tale.selvedge("fresh", &["deploy"]);
    tale.tell("no commit", &mut command).await;
    let mut shell = Command::new("bash");
    shell.args(["-c", "rmdir ../gone && exec \"$0\" why", env!("CARGO_BIN_EXE_selvedge")]);
    tale.tell("the directory is gone", shell.current_dir(tale.path("gone"))).await;
    let mut command = tale.selvedge("empty", &["why"]);
    tale.tell("no selvedge.toml", &mut command).await;
    for (title, directory, arguments) in [
        ("nothing to check", "empty", &["check"][..]),
        ("not TOML", "broken", &["check"]),
        ("not TOML, seen by another verb", "broken", &["why"]),
        ("unknown words in the file", "misspelt", &["check"]),
        ("the same for programs", "misspelt", &["check", "--json"]),
        ("nothing there", "empty", &["check", "nowhere"]),
        ("init where an app is", "app", &["init"]),
        ("init where nothing is", "empty", &["init"]),
        ("a plan of no repository", "empty", &["plan"]),
        ("a plan of no commit", "fresh", &["plan", "--offline"]),
        ("a plan of a wrong file", "misspelt", &["plan", "--work-tree", "--offline"]),
        ("no examples", "empty", &["demo"]),
        ("nothing to write to", "empty", &["man", "/dev/null/man"]),
    ] {
        let mut command = tale.selvedge(directory, arguments);
        tale.tell(title, &mut command).await;
    }
}

async fn arguments(tale: &mut Tale) {
    for (title, arguments) in [
        ("unknown verb", &["statsu"][..]),
        ("unknown verb, for programs", &["statsu", "--json"]),
        ("unknown option", &["status", "--form"]),
        ("a name that no app can have", &["status", "My_App"]),
        ("an id of no operation", &["ops", "12"]),
        ("no time", &["logs", "--since", "yesterday"]),
        ("no status", &["logs", "--status", "bad"]),
        ("no source", &["logs", "--source", "acces"]),
        ("a name that init can't give", &["init", "--name", "My_App"]),
        ("too many sites", &["dev", "--sites", "99"]),
        ("no control", &["status"]),
        ("no control, for programs", &["status", "--json"]),
        ("a URL of nothing", &["status", "--control-url", "nonsense"]),
        ("a URL of another kind", &["status", "--control-url", "ftp://127.0.0.1"]),
        ("a URL with a password", &["status", "--control-url", "http://a:b@127.0.0.1"]),
        ("a URL with a path", &["status", "--control-url", "http://127.0.0.1/v1"]),
        ("no token", &["status", "--control-url", "http://127.0.0.1:7070"]),
        (
            "no token file",
            &["status", "--control-url", "http://127.0.0.1:7070", "--token-file", "nowhere"],
        ),
        ("HTTPS and no authority", &["status", "--control-url", "https://127.0.0.1:7070"]),
        (
            "no file of the authority",
            &["status", "--control-url", "https://127.0.0.1:7070", "--ca", "nowhere"],
        ),
        (
            "no authority in the file",
            &["status", "--control-url", "https://127.0.0.1:7070", "--ca", "/dev/null"],
        ),
    ] {
        let mut command = tale.selvedge("empty", arguments);
        tale.tell(title, &mut command).await;
    }
    let mut command = tale.selvedge("empty", &["status"]);
    tale.tell("an argument that is no text", command.arg(OsStr::from_bytes(b"\xff"))).await;
    let mut command = tale.selvedge("empty", &["status"]);
    command.env("SELVEDGE_CONTROL", "http://no-such-host.invalid").env("SELVEDGE_TOKEN", "t");
    tale.tell("a host that is not there", &mut command).await;
    let mut command = tale.selvedge("empty", &["status", "--control-url", "http://127.0.0.1:7070"]);
    tale.tell("a token of two lines", command.env("SELVEDGE_TOKEN", "a\nb")).await;
}

async fn servers_that_can_not_start(tale: &mut Tale) {
    std::fs::write(tale.path("empty/file"), "").unwrap();
    for (title, arguments) in [
        ("a data directory that can't be made", &["dev", "--data", "file/box"][..]),
        ("a data directory of something else", &["dev", "--data", "../app"]),
        ("no topology", &["control", "--data", "c", "--topology", "nowhere"]),
        ("not a topology", &["control", "--data", "c", "--topology", "file"]),
    ] {
        let mut command = tale.selvedge("empty", arguments);
        tale.tell(title, &mut command).await;
    }
    let remote = "http://127.0.0.1:7070/git/shop.git";
    git(&tale.path("fresh"), &["remote", "add", "selvedge", remote]).await;
    let mut command = tale.selvedge("fresh", &["status"]);
    tale.tell("a remote of a box that was stopped", &mut command).await;
    let mut command = tale.selvedge("empty", &["dev", "--data", "new"]);
    tale.tell("a log filter that is none", command.env("SELVEDGE_LOG", "!!!")).await;
}

/// Answers every connection with `answer` and hangs up. Returns its address; ends with the test.
fn impostor(answer: &'static str, tls: Option<Arc<rustls::ServerConfig>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = match &tls {
                None => {
                    stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(answer.as_bytes()))
                }
                Some(tls) => {
                    let connection = rustls::ServerConnection::new(tls.clone()).unwrap();
                    let mut stream = rustls::StreamOwned::new(connection, stream);
                    stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(answer.as_bytes()))
                }
            };
        }
    });
    address.to_string()
}

/// A server's TLS with a certificate that it has signed itself, and that certificate.
fn own_tls() -> (Arc<rustls::ServerConfig>, String) {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), own.cert.pem())
}

const HTML: &str =
    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/html\r\n\r\n<h1>Hi</h1>";
const OTHER: &str =
    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n{\"a\":1}";
const LOST: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n";
const TORN: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\
    content-length: 999\r\n\r\n{\"event\":";

#[tokio::test(flavor = "multi_thread")]
async fn where_something_else_answers() {
    let mut tale = Tale::new();
    std::fs::create_dir(tale.path("empty")).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap().to_string();
    drop(closed);
    for (title, address, arguments) in [
        ("nobody there", nobody, &["status"][..]),
        ("a web server", impostor(HTML, None), &["status"]),
        ("another version", impostor(OTHER, None), &["status"]),
        ("another server", impostor(LOST, None), &["sites", "--json"]),
        ("control goes away at once", impostor("", None), &["status"]),
        ("control goes away in the middle", impostor(TORN, None), &["rollback", "--app", "shop"]),
    ] {
        tale.name(&address, "CONTROL");
        let mut command = tale.selvedge("empty", arguments);
        command.env("SELVEDGE_CONTROL", format!("http://{address}")).env("SELVEDGE_TOKEN", "t");
        tale.tell(title, &mut command).await;
    }
    let (tls, _) = own_tls();
    let (_, other) = own_tls();
    std::fs::write(tale.path("other.pem"), other).unwrap();
    let address = impostor(HTML, Some(tls));
    tale.name(&address, "CONTROL");
    for (title, url) in [
        ("an authority that did not sign", format!("https://{address}")),
        ("no TLS where TLS is", format!("http://{address}")),
    ] {
        let mut command = tale.selvedge("empty", &["status", "--ca", "../other.pem"]);
        command.env("SELVEDGE_CONTROL", url).env("SELVEDGE_TOKEN", "t");
        tale.tell(title, &mut command).await;
    }
    insta::assert_snapshot!("where_something_else_answers", tale.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_box_runs() {
    if !can_isolate() {
        return;
    }
    let mut tale = Tale::new();
    std::fs::create_dir(tale.path("empty")).unwrap();
    let planet = Planet::start(2, &["--restart-after", "never"]).await;
    let info = &planet.info;
    tale.name(planet.data.display(), "BOX");
    tale.name(&info.control, "http://CONTROL");
    tale.name(info.dns, "DNS");
    tale.name(info.sites[0].https, "HTTPS");
    tale.name(planet.supervisor_pid(), "PID");
    let repository = Repository::with_files("shop", &[("selvedge.toml", APP)]).await;
    tale.name(repository.path.display(), "REPOSITORY");
    repository.push_live(&planet).await;
    let offered = crate::manual::offered_with(&planet.data, &["why", "sh"]);
    assert!(offered.contains("shop"), "bash does not know the app: {offered:?}");

    what_is_not_there(&mut tale, &planet).await;
    what_is_refused(&mut tale, &planet, &repository).await;
    let mut command = tale.selvedge("empty", &["status"]);
    command.env("SELVEDGE_DATA", &planet.data).env("SELVEDGE_TOKEN", "wrong");
    tale.tell("a wrong token", &mut command).await;
    where_the_output_goes(&mut tale, &planet).await;
    cut_short(&mut tale, &planet).await;
    planet.stop().await;
    insta::assert_snapshot!("where_a_box_runs", tale.text);
}

async fn what_is_not_there(tale: &mut Tale, planet: &Planet) {
    for (title, arguments) in [
        ("an app that is not there", &["status", "shpo"][..]),
        ("the same of another verb", &["why", "shpo"]),
        ("nothing like it", &["releases", "zzz"]),
        ("for programs", &["releases", "zzz", "--json"]),
        ("a city that is not there", &["curl", "https://shop.edge.test/", "--from", "Tokio"]),
        ("a host that is not there", &["curl", "https://nobody.edge.test/"]),
        ("a host of elsewhere", &["curl", "https://example.com/"]),
        ("no URL", &["curl", "ftp://shop.edge.test/"]),
        ("nothing to go back to", &["rollback", "--app", "shop"]),
        ("a release that is not there", &["rollback", "ffff", "--app", "shop"]),
        ("too few digits", &["rollback", "f", "--app", "shop"]),
        ("a rollback of no app", &["rollback", "--app", "shpo"]),
        ("the removal of no app", &["apps", "rm", "shpo"]),
        ("lines of no app", &["logs", "shpo"]),
        ("lines of no site", &["logs", "--site", "frra"]),
        ("processes of no app", &["ps", "shpo"]),
        ("an operation that is not there", &["ops", "0123456789abcdef"]),
    ] {
        let mut command = tale.selvedge("empty", arguments);
        tale.tell(title, command.env("SELVEDGE_DATA", &planet.data)).await;
    }
    let data = planet.data.display().to_string();
    let mut command = tale.selvedge("empty", &["dev", "--data", &data]);
    tale.tell("a second box on the data", &mut command).await;
}

async fn what_is_refused(tale: &mut Tale, planet: &Planet, shop: &Repository) {
    let deploy = |repository: &Repository| {
        let mut command = planet.command(&repository.path);
        command.arg("deploy").env("LC_ALL", "C");
        command
    };
    let taken = Repository::with_files("other", &[("selvedge.toml", APP)]).await;
    tale.tell("the app's name is taken", deploy(&taken).args(["--repository", "other"])).await;
    let route = "\n[[route]]\nhost = \"shop.edge.test\"\n";
    let hosts = APP.replace("\"shop\"", "\"store\"") + route;
    let taken = Repository::with_files("store", &[("selvedge.toml", &hosts)]).await;
    tale.tell("the host is taken", &mut deploy(&taken)).await;
    shop.write("selvedge.toml", &APP.replace("root", "rot"));
    shop.commit("Misspell a key").await;
    tale.tell("the file is wrong", &mut deploy(shop)).await;
    shop.write("selvedge.toml", &APP.replace("[app]", "[app]\ntest = \"echo so; exit 7\""));
    shop.commit("Fail").await;
    shop.write("uncommitted", "");
    tale.tell("a test fails, and a file is not committed", &mut deploy(shop)).await;
    let mut shell = Command::new("bash");
    shell.args(["-c", "selvedge deploy --json 2>&1 >/dev/null | tail -1; exit ${PIPESTATUS[0]}"]);
    let path = Path::new(env!("CARGO_BIN_EXE_selvedge")).parent().unwrap().display().to_string();
    shell.env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap_or_default()));
    shell.env("SELVEDGE_DATA", &planet.data).current_dir(&shop.path);
    tale.tell("the same for programs", &mut shell).await;
    std::fs::remove_file(shop.path.join("uncommitted")).unwrap();
    shop.git(&["reset", "--quiet", "--hard", "HEAD~2"]).await;
    for (title, refspec) in [
        ("git pushes another branch", "HEAD:refs/heads/feature"),
        ("git deletes main", ":refs/heads/main"),
        ("git pushes elsewhere", "HEAD:refs/notes/x"),
    ] {
        let said = shop.push_to(planet, refspec).await.words;
        let refused = said.lines().find(|line| line.contains("[remote rejected]"));
        let line = tale.plain(refused.unwrap_or(&said));
        tale.text.push_str(&format!("# {title}\n{line}\n\n"));
    }
    let elsewhere = Repository::with_files("elsewhere", &[("selvedge.toml", APP)]).await;
    elsewhere.git(&["checkout", "--quiet", "-b", "feature"]).await;
    let mut command = deploy(&elsewhere);
    tale.tell("main is elsewhere", command.args(["--repository", "shop"])).await;
    elsewhere.git(&["checkout", "--quiet", "--detach"]).await;
    let mut command = deploy(&elsewhere);
    tale.tell("main is elsewhere, and HEAD on no branch", command.args(["--repository", "shop"]))
        .await;
}

/// A reader may close the pipe: neither panic nor error. A full disk is another thing.
async fn where_the_output_goes(tale: &mut Tale, planet: &Planet) {
    let shell = |line: &str| {
        let mut shell = Command::new("bash");
        let line = line.replace("selvedge", env!("CARGO_BIN_EXE_selvedge"));
        shell.args(["-o", "pipefail", "-c", &line]).env("SELVEDGE_DATA", &planet.data);
        shell
    };
    for verb in [
        "status | head -1",
        "--help | true",
        "sites | true",
        "releases shop | true",
        "logs --all | true",
    ] {
        let output = shell(&format!("selvedge {verb} >/dev/null")).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{verb}: {said}");
    }
    tale.tell("no room for the output", &mut shell("selvedge status > /dev/full")).await;
    for line in ["selvedge logs --all > /dev/full", "selvedge logs --all -f --json > /dev/full"] {
        tale.tell("no room for the log", &mut shell(line)).await;
    }
}

/// A push is under way: the user presses Ctrl-C, then control dies under the next one.
async fn cut_short(tale: &mut Tale, planet: &Planet) {
    let slow = slow_app("slow").await;
    let (command, child) = deploying(planet, &slow, &["deploy"]).await;
    let group = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = last_lines(child, 2).await;
    tale.add("Ctrl-C", &command, &output);
    assert_eq!(output.status.code(), Some(130));
    let name = selvedge_model::RepositoryName::new("slow").unwrap();
    let push = planet.api().push(&name, 1).await.unwrap();
    assert_eq!(push.state, selvedge_model::PushState::Preparing, "the push did not go on");

    let slower = slow_app("slower").await;
    let (command, child) = deploying(planet, &slower, &["deploy", "--json"]).await;
    crate::harness::signal(planet.info.control_pid, nix::sys::signal::Signal::SIGKILL);
    let mut output = last_lines(child, 1).await;
    output.stderr = how_it_broke_off(&output.stderr).into_bytes();
    tale.add("control dies", &command, &output);
    assert_eq!(output.status.code(), Some(4));
}

/// How a connection to a process that was just killed ends (reset, closed, refused) depends on what
/// was under way.
fn how_it_broke_off(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let went = "went away during the push: ";
    let (before, after) = said.split_once(went).expect("not a word of control that went away");
    let (how, after) = after.split_once('"').unwrap();
    assert!(how.contains("http://127.0.0.1:"), "which control? {how}");
    format!("{before}{went}HOW\"{after}")
}

async fn slow_app(name: &str) -> Repository {
    let file = APP.replace("shop", name).replace("[app]", "[app]\nbuild = \"sleep 600\"");
    Repository::with_files(name, &[("selvedge.toml", &file)]).await
}

/// Starts a deploy and waits until it builds.
async fn deploying(
    planet: &Planet,
    repository: &Repository,
    arguments: &[&str],
) -> (Command, tokio::process::Child) {
    let mut command = planet.command(&repository.path);
    command.args(arguments).process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let api = planet.api();
    let name = selvedge_model::RepositoryName::new(&repository.name).unwrap();
    let building = async || {
        let push = api.push(&name, 1).await.ok()?;
        push.stages.iter().any(|stage| stage.stage == selvedge_model::Stage::Build).then_some(())
    };
    eventually("the build runs", building).await;
    (command, child)
}

/// How a command ended, with the last lines of what it said: those that are ours and not git's.
async fn last_lines(child: tokio::process::Child, count: usize) -> Output {
    let mut output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    output.stderr = lines[lines.len().saturating_sub(count)..].join("\n").into_bytes();
    output
}
