//! A control without its API, sites, and users with git.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use selvedge_control::git::{Git, GitService, ServiceConfig};
use selvedge_control::pipeline::{self, Handle, Limits, Pipeline, PipelineConfig};
use selvedge_fabric::embedded::Embedded;
use selvedge_fabric::{Expect, SharedFabric, Typed};
use selvedge_model::documents::{AppRecord, HostClaim};
use selvedge_model::geo::CITIES;
use selvedge_model::id::ProviderName;
use selvedge_model::{
    Activation, AppName, Assignment, EnvironmentName, Host, Installation, Push, RepositoryName,
    Site, SiteId, Topology, keys,
};
use selvedge_runtime::Runtime;
use selvedge_telemetry::journal::Journal;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::sites::Sites;

/// How long anything may take, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) fabric: SharedFabric,
    pub(crate) sites: Sites,
    pub(crate) pipeline: Handle,
    url: String,
    running: Option<(DropGuard, tokio::task::JoinHandle<()>)>,
    directory: tempfile::TempDir,
}

fn helper() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_selvedge-control-helper"))
}

pub(crate) fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

pub(crate) fn repository(name: &str) -> RepositoryName {
    RepositoryName::new(name).unwrap()
}

impl World {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let fabric: SharedFabric = Arc::new(Embedded::open(&data.join("fabric")).unwrap());
        let ids = ["fra", "nyc", "sin"].map(|id| SiteId::new(id).unwrap());
        let topology =
            Topology { sites: ids.iter().cloned().map(|id| (id.clone(), site(id))).collect() };
        Typed(&*fabric).put(keys::TOPOLOGY, &topology, Expect::Any).await.unwrap();
        let sites = Sites::start(&fabric, &ids);
        let (pipeline, url, running) = Self::control(directory.path(), &fabric).await;
        Self { fabric, sites, pipeline, url, running: Some(running), directory }
    }

    async fn control(
        directory: &Path,
        fabric: &SharedFabric,
    ) -> (Handle, String, (DropGuard, tokio::task::JoinHandle<()>)) {
        let data = directory.join("data");
        let git = Git::open(&data, helper()).await.unwrap();
        let runtime = Runtime::new(selvedge_runtime::Config {
            hidden: vec![data.clone()],
            tenants: directory.join("tenants"),
            ..selvedge_runtime::Config::new(helper().to_owned(), directory.join("sandboxes"))
        })
        .unwrap();
        let (journal, _) = Journal::open(&data.join("log"), 1 << 20).unwrap();
        let pipeline = Pipeline::new(PipelineConfig {
            fabric: Arc::clone(fabric),
            runtime,
            git: git.clone(),
            data: data.clone(),
            installation: Installation {
                zone: Host::new("edge.test").unwrap(),
                in_a_box: true,
                local_upstreams: false,
            },
            limits: Limits { probe_retry: Duration::from_millis(100), ..Limits::default() },
            journal,
        })
        .unwrap();
        let handle = pipeline.handle();
        let service =
            GitService::new(ServiceConfig { git, hook_socket: pipeline::hook_socket(&data) });
        let router = axum::Router::new().fallback(move |request: Request| {
            let service = service.clone();
            async move {
                let path = request.uri().path().trim_start_matches("/git/").to_owned();
                service.serve(&path, request).await
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/git", listener.local_addr().unwrap());
        let token = CancellationToken::new();
        let until = token.clone();
        let task = tokio::spawn(async move {
            let serve = async { axum::serve(listener, router).await.unwrap() };
            tokio::select! {
                () = pipeline.run(until) => {}
                () = serve => {}
            }
        });
        (handle, url, (token.drop_guard(), task))
    }

    /// Ends control wherever it is, as a crash does.
    pub(crate) async fn crash(&mut self) {
        let (guard, task) = self.running.take().unwrap();
        drop(guard);
        task.await.unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        let (pipeline, url, running) = Self::control(self.directory.path(), &self.fabric).await;
        self.pipeline = pipeline;
        self.url = url;
        self.running = Some(running);
    }

    /// Takes a site out of the topology.
    pub(crate) async fn leave(&self, site: &str) {
        let fabric = Typed(&*self.fabric);
        let (_, mut topology) = fabric.get::<Topology>(keys::TOPOLOGY).await.unwrap().unwrap();
        topology.sites.remove(&SiteId::new(site).unwrap()).unwrap();
        fabric.put(keys::TOPOLOGY, &topology, Expect::Any).await.unwrap();
    }

    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
    }

    pub(crate) fn remote(&self, repository: &str) -> String {
        format!("{}/{repository}.git", self.url)
    }

    /// A user's repository with one static app in it, committed.
    pub(crate) async fn user(&self, repository: &str) -> User {
        let user = User { path: self.directory.path().join(format!("user-{repository}")) };
        std::fs::create_dir(&user.path).unwrap();
        user.git(&["init", "--quiet", "--initial-branch=main"]).await;
        user.git(&["remote", "add", "origin", &self.remote(repository)]).await;
        user.write("selvedge.toml", &manifest(repository, ""));
        user.write("public/index.html", "one");
        user.commit("one").await;
        user
    }

    pub(crate) async fn activation(&self, name: &str) -> Option<Activation> {
        let key = keys::activation(&app(name), &EnvironmentName::production());
        Typed(&*self.fabric).get(&key).await.unwrap().map(|(_, it)| it)
    }

    pub(crate) async fn record(&self, name: &str) -> Option<AppRecord> {
        Typed(&*self.fabric).get(&keys::app(&app(name))).await.unwrap().map(|(_, it)| it)
    }

    pub(crate) async fn push(&self, name: &str, number: u64) -> Push {
        let key = keys::push(&repository(name), number);
        Typed(&*self.fabric).get(&key).await.unwrap().unwrap().1
    }

    /// Everything that says what is to be served: what a refused push must leave alone.
    pub(crate) async fn wanted(
        &self,
    ) -> (Vec<Assignment>, Vec<Activation>, Vec<(String, HostClaim)>) {
        let fabric = Typed(&*self.fabric);
        let assignments = fabric.list(keys::ASSIGNMENTS).await.unwrap();
        let activations = fabric.list(keys::ACTIVATIONS).await.unwrap();
        let hosts = fabric.list(keys::HOSTS).await.unwrap();
        (
            assignments.into_iter().map(|(_, _, it)| it).collect(),
            activations.into_iter().map(|(_, _, it)| it).collect(),
            hosts.into_iter().map(|(key, _, it)| (key, it)).collect(),
        )
    }

    /// Waits until a push is as `is` says.
    pub(crate) async fn until(&self, name: &str, number: u64, is: impl Fn(&Push) -> bool) -> Push {
        self.written(&keys::push(&repository(name), number), is).await
    }

    /// Waits until there is nothing below `prefix`.
    pub(crate) async fn emptied(&self, prefix: &str) {
        let mut watch = self.fabric.watch(prefix, None).await.unwrap();
        let gone = async {
            while !self.fabric.list(prefix).await.unwrap().documents.is_empty() {
                watch.next().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    }

    /// Waits until a document at `key` (or below it) is as `is` says.
    pub(crate) async fn written<T: DeserializeOwned>(
        &self,
        key: &str,
        is: impl Fn(&T) -> bool,
    ) -> T {
        let mut watch = self.fabric.watch(key, None).await.unwrap();
        let found = async {
            loop {
                let change = watch.next().await.unwrap();
                if let selvedge_fabric::Change::Put(document) = change {
                    let value = document.parse().unwrap();
                    if is(&value) {
                        return value;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap()
    }
}

fn site(id: SiteId) -> Site {
    let city = CITIES.iter().find(|city| city.code == id.as_str()).unwrap();
    Site {
        id,
        city: city.name.to_owned(),
        country: city.country.to_owned(),
        region: city.region,
        point: city.point,
        provider: ProviderName::new("one").unwrap(),
        addresses: Vec::new(),
        http_port: 8080,
        https_port: 8443,
        memory_mib: 4096,
        draining: false,
    }
}

pub(crate) fn manifest(name: &str, app: &str) -> String {
    format!(
        "[app]\nname = \"{name}\"\n{app}\n[[service]]\nname = \"web\"\nkind = \"static\"\nroot = \"public\"\n"
    )
}

/// Somebody with a working copy.
pub(crate) struct User {
    pub(crate) path: PathBuf,
}

/// How a git command went.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn has(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.text.contains(word), "no {word:?} in:\n{}", self.text);
        }
        self
    }
}

impl User {
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .args(arguments)
            .current_dir(&self.path)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", &self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "A User");
            command.env(format!("GIT_{role}_EMAIL"), "user@example.com");
        }
        command
    }

    pub(crate) async fn try_git(&self, arguments: &[&str]) -> Said {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let ended = async {
            let reads = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
            assert!(reads.0.is_ok() && reads.1.is_ok());
            child.wait().await.unwrap()
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        let text = [out, err].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        let Ok(status) = ended else { panic!("git {arguments:?} does not end:\n{text}") };
        Said { ok: status.success(), text }
    }

    pub(crate) async fn git(&self, arguments: &[&str]) -> String {
        let said = self.try_git(arguments).await;
        assert!(said.ok, "git {arguments:?}:\n{}", said.text);
        said.text
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) async fn commit(&self, subject: &str) {
        self.git(&["add", "--all"]).await;
        self.git(&["commit", "--quiet", "--allow-empty", "-m", subject]).await;
    }

    pub(crate) async fn push(&self) -> Said {
        self.try_git(&["push", "origin", "main"]).await
    }

    pub(crate) async fn push_ok(&self) -> Said {
        let said = self.push().await;
        assert!(said.ok, "{}", said.text);
        said
    }

    /// A change of the site's content, committed.
    pub(crate) async fn change(&self, content: &str, subject: &str) {
        self.write("public/index.html", content);
        self.commit(subject).await;
    }

    pub(crate) async fn remote_main(&self) -> Option<String> {
        let text = self.git(&["ls-remote", "origin", "refs/heads/main"]).await;
        text.split_whitespace().next().map(str::to_owned)
    }

    pub(crate) async fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"]).await.trim().to_owned()
    }
}
