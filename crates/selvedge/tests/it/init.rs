//! `selvedge init` on real projects, and what it writes pushed: one box, all kinds at once. The new
//! examples are pushed beside them, as they are.

use std::path::Path;
use std::process::Stdio;

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::harness::repository::Repository;
use crate::harness::{PATIENCE, Planet, can_isolate};

/// A project of `fixtures/projects`, what `init` takes it for, and what it then answers.
struct Project {
    directory: &'static str,
    what: &'static str,
    path: &'static str,
    answer: &'static str,
}

const PROJECTS: [Project; 9] = [
    // First, as it takes longest.
    Project {
        directory: "next-export",
        what: "a Next.js site, exported as files",
        path: "/",
        answer: "<div>Hello World!</div>",
    },
    Project { directory: "vite-site", what: "a Vite site", path: "/", answer: "/assets/index-" },
    Project {
        directory: "express-app",
        what: "an Express application",
        path: "/users",
        answer: "respond with a resource",
    },
    Project {
        directory: "pnpm-fastify",
        what: "a Fastify application",
        path: "/",
        answer: r#"{"hello":"world"}"#,
    },
    Project {
        directory: "flask-app",
        what: "a Flask application",
        path: "/",
        answer: "<p>Hello, World!</p>",
    },
    Project {
        directory: "fastapi-app",
        what: "a FastAPI application",
        path: "/openapi.json",
        answer: r#""openapi":"#,
    },
    Project {
        directory: "django-site",
        what: "a Django application",
        path: "/admin/login/",
        answer: "Django administration",
    },
    Project {
        directory: "datasette-files",
        what: "a Datasette over SQLite",
        path: "/looms/looms/3",
        answer: "Jacquard machine",
    },
    Project {
        directory: "java-jar",
        what: "a Java program",
        path: "/",
        answer: "Hello from a jar",
    },
];

/// Examples that are pushed as they are, with a path and part of its answer.
const EXAMPLES: [(&str, &str, &str); 2] = [
    ("datasette", "/unicode/characters.json?_search=snowman&_shape=array", "SNOWMAN WITHOUT SNOW"),
    ("java-service", "/yarn?metres=1200&tex=25", r#""grams": 30.000"#),
];

/// As many as a small machine builds at once.
const AT_ONCE: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn real_projects_go_live_with_what_init_writes() {
    if !can_isolate() {
        return;
    }
    let planet = Planet::start(2, &[]).await;
    let planet = &planet;
    let projects = futures_util::stream::iter(&PROJECTS)
        .for_each_concurrent(AT_ONCE, |project| goes_live(planet, project));
    projects.await;
    let examples = futures_util::stream::iter(&EXAMPLES).for_each_concurrent(
        AT_ONCE,
        |(name, path, answer)| async move {
            let repository = Repository::from_example(name).await;
            repository.push_live(planet).await;
            answers(planet, name, path, answer).await;
        },
    );
    examples.await;
}

async fn goes_live(planet: &Planet, project: &Project) {
    let name = project.directory;
    let repository = Repository::from_project(name).await;
    match name {
        "java-jar" => make_jar(&repository.path).await,
        "django-site" => take_key_out(&repository.path),
        _ => {}
    }
    let init = planet
        .command(&repository.path)
        .args(["init", "--name", name, "--json"])
        .output()
        .await
        .unwrap();
    let words = String::from_utf8_lossy(&init.stderr);
    assert!(init.status.success(), "init of {name}: {words}");
    let report: serde_json::Value = serde_json::from_slice(&init.stdout).unwrap();
    assert_eq!(report["what"], project.what, "{report}");
    let check = planet.command(&repository.path).arg("check").output().await.unwrap();
    assert!(check.status.success(), "check of {name}: {}", String::from_utf8_lossy(&check.stderr));
    repository.commit("Run on Selvedge").await;
    repository.push_live(planet).await;
    answers(planet, name, project.path, project.answer).await;
}

/// What somebody has who is given a program, and not its source.
async fn make_jar(directory: &Path) {
    for arguments in [
        &["javac", "-d", "classes", "Hello.java"][..],
        &["jar", "--create", "--file", "hello.jar", "--main-class", "Hello", "-C", "classes", "."],
    ] {
        let (program, arguments) = arguments.split_first().unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).stdin(Stdio::null());
        assert!(command.status().await.unwrap().success(), "{program} failed");
    }
    std::fs::remove_dir_all(directory.join("classes")).unwrap();
    std::fs::remove_file(directory.join("Hello.java")).unwrap();
}

/// As Django's own list of what to do before a deployment says, and templates of others do.
fn take_key_out(directory: &Path) {
    let path = directory.join("mysite/settings.py");
    let settings = std::fs::read_to_string(&path).unwrap();
    let is_key = |line: &&str| line.starts_with("SECRET_KEY");
    let key = settings.lines().find(is_key).unwrap();
    let settings = settings.replace(key, "SECRET_KEY = os.environ['SECRET_KEY']");
    std::fs::write(path, format!("import os\n{settings}")).unwrap();
}

/// Asks every site.
async fn answers(planet: &Planet, app: &str, path: &str, part: &str) {
    for site in &planet.info.sites {
        let mut stream = TcpStream::connect((site.address, site.http)).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {app}.localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.expect("no answer").unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{app}{path} at {}: {answer}", site.id);
        assert!(answer.contains(part), "{app}{path} at {}: {answer}", site.id);
    }
}
