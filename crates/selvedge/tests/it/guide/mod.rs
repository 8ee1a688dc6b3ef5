//! The guide's commands, run from its own text.
//!
//! Every page of docs/guide is read, in the order of the index in docs/guide/README.md, which must
//! name it. A new page needs nothing but its line there. In a page:
//!
//! - A block that is fenced as `sh` is run by bash, as if it were typed: blocks of a page share
//!   directory and variables, and a failing command fails the test. A page begins in the home
//!   directory; what earlier pages made is still there.
//! - The next block, if it is fenced as `text`, is what these commands print, all of it. `…` stands
//!   for anything in a line, and alone on a line for any lines.
//! - A directive on a line of its own before the fence changes that:
//!   `<!-- test: skip REASON -->` does not run the block, or compare the text;
//!   `<!-- test: fails CODE -->` wants its last command to end with that code;
//!   `<!-- test: repeat -->` runs it again until it succeeds and prints what the page says;
//!   `<!-- test: background -->` starts it and ends it with the page, up to which it must run on,
//!   having printed something.
//!
//! Other fences are `toml` and `json`, and are not run; anything else is an error, so that no
//! command goes without a test unseen. README.md is read too: see [`front_page`].
//!
//! The home directory is a scratch one, and a box of eight sites runs in its usual place there, so
//! that no command needs a flag that a reader would not type. The box has other ports than a
//! reader's: [`Shell`] puts them in the usual ones' place, and back again in what is printed. Skips
//! are listed in a snapshot, so that none hides.

mod page;

use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use self::page::{Block, Directive};
use crate::harness::repository::Repository;
use crate::harness::{PATIENCE, Planet, can_isolate};

/// Where a reader's box listens.
const USUAL_PORTS: [u16; 4] = [8080, 8443, 5300, 7070];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_guide_does_what_the_page_says() {
    if !can_isolate() {
        return;
    }
    let home = tempfile::Builder::new().prefix("selvedge-guide-").tempdir().unwrap();
    let data = home.path().join(".local/share/selvedge/box");
    std::fs::create_dir_all(data.parent().unwrap()).unwrap();
    let git = "[user]\nname = Reader\nemail = reader@example.com\n[init]\ndefaultBranch = main\n";
    std::fs::write(home.path().join(".gitconfig"), git).unwrap();
    // On a terminal, curl shows no progress for what it prints.
    std::fs::write(home.path().join(".curlrc"), "silent\nshow-error\n").unwrap();
    let planet = Planet::start_at(&data, 8, &[]).await;
    let mut told = String::new();
    for (name, text) in pages() {
        let blocks = page::blocks(&text).unwrap_or_else(|why| panic!("docs/guide/{name}: {why}"));
        if blocks.is_empty() {
            continue;
        }
        let mut shell = Shell::new(home.path(), &planet);
        let started = Instant::now();
        let mut ran = 0;
        for block in &blocks {
            if let Directive::Skip(reason) = &block.directive {
                let first = block.commands.lines().next().unwrap_or_default();
                writeln!(told, "{name}: {first}\n    skipped: {reason}").unwrap();
                continue;
            }
            ran += 1;
            if let Err(problem) = shell.follow(block).await {
                panic!("docs/guide/{name}:{}: {problem}", block.line);
            }
        }
        println!("docs/guide/{name}: {ran} blocks in {:.1} s", started.elapsed().as_secs_f64());
        shell.end().await.unwrap_or_else(|problem| panic!("docs/guide/{name}: {problem}"));
    }
    front_page(&home, &planet, &mut told).await;
    planet.stop().await;
    insta::assert_snapshot!("skipped", told);
}

/// Types what README.md says to type in a second terminal, while the demo would run in the first:
/// line by line, since one of them does not end by itself. The demo's app is a stand-in of one page:
/// what is asked of it is the same, and the demo has a test of its own.
async fn front_page(home: &TempDir, planet: &Planet, told: &mut String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let blocks = page::blocks(&std::fs::read_to_string(path).unwrap()).unwrap();
    let build = home.path().join("target/debug");
    std::fs::create_dir_all(build.parent().unwrap()).unwrap();
    symlink(Path::new(env!("CARGO_BIN_EXE_selvedge")).parent().unwrap(), build).unwrap();
    let files = [
        (
            "selvedge.toml",
            "[app]\nname = \"storefront\"\n[[service]]\nname = \"web\"\nkind = \"static\"\nroot = \".\"\n",
        ),
        ("index.html", "<h1>Storefront</h1>\n"),
    ];
    Repository::with_files("storefront", &files).await.push_live(planet).await;
    let mut shell = Shell::new(home.path(), planet);
    let mut ran = 0;
    for block in blocks {
        if block.commands.starts_with("make ") {
            let first = block.commands.lines().next().unwrap();
            writeln!(told, "README.md: {first}\n    skipped: it is what builds and runs this")
                .unwrap();
            continue;
        }
        for (index, line) in block.commands.lines().enumerate() {
            let directive = match line.contains(" -f") {
                true => Directive::Background,
                false => Directive::Run,
            };
            let line = Block {
                line: block.line + 1 + index,
                commands: format!("{line}\n"),
                directive,
                output: None,
            };
            if let Err(problem) = shell.follow(&line).await {
                panic!("README.md:{}: {problem}", line.line);
            }
            ran += 1;
        }
    }
    assert!(ran > 0, "README.md says nothing to type while the demo runs");
    shell.end().await.unwrap_or_else(|problem| panic!("README.md: {problem}"));
}

/// The pages in the order of the index.
fn pages() -> Vec<(String, String)> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide");
    let index = std::fs::read_to_string(guide.join("README.md")).unwrap();
    let mut names: Vec<String> = Vec::new();
    for link in index.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
        let name = link.0.to_owned();
        if name.ends_with(".md") && !name.contains('/') && !names.contains(&name) {
            names.push(name);
        }
    }
    for entry in std::fs::read_dir(&guide).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let known = !name.ends_with(".md") || name == "README.md" || names.contains(&name);
        assert!(known, "docs/guide/README.md does not lead to {name}");
    }
    let read = |name: String| {
        let text = std::fs::read_to_string(guide.join(&name));
        (name, text.unwrap())
    };
    names.into_iter().map(read).collect()
}

/// A reader's shell, in which the commands of one page are typed.
struct Shell {
    home: PathBuf,
    /// The usual ports, and those of the test's box.
    ports: [(u16, u16); 4],
    background: Vec<Background>,
}

/// Commands that go on while the page is read.
struct Background {
    /// The line of the page.
    line: usize,
    child: Child,
    output: PathBuf,
}

impl Shell {
    fn new(home: &Path, planet: &Planet) -> Self {
        let site = planet.info.sites.first().unwrap();
        let control = planet.info.control.rsplit(':').next().unwrap().parse().unwrap();
        let own = [site.http, site.https, planet.info.dns.port(), control];
        let mut ports = USUAL_PORTS.map(|usual| (usual, usual));
        for (port, own) in ports.iter_mut().zip(own) {
            port.1 = own;
        }
        let _ = std::fs::remove_file(home.join(".state"));
        Self { home: home.to_owned(), ports, background: Vec::new() }
    }

    /// Does what the page says.
    async fn follow(&mut self, block: &Block) -> Result<(), String> {
        if block.directive == Directive::Background {
            let output = self.home.join(format!(".background-{}.output", self.background.len()));
            let child = self.start(block, &output);
            self.background.push(Background { line: block.line, child, output });
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, output) = self.run(block, Instant::now() + PATIENCE).await?;
            let wanted = if let Directive::Fails(code) = block.directive { code } else { 0 };
            let problem = if status.code() != Some(wanted) {
                format!("ended with {status}, not {wanted}")
            } else {
                match &block.output {
                    Some(page) if !page::printed(&output, page) => {
                        format!("does not print what the page says:\n{page}")
                    }
                    _ => return Ok(()),
                }
            };
            let problem =
                format!("{problem}\n--- commands:\n{}--- output:\n{output}", block.commands);
            if block.directive != Directive::Repeat || Instant::now() > deadline {
                return Err(problem);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn run(&self, block: &Block, deadline: Instant) -> Result<(ExitStatus, String), String> {
        let output = self.home.join(".typed.output");
        let mut child = self.start(block, &output);
        let left = deadline.saturating_duration_since(Instant::now());
        let status = tokio::time::timeout(left, child.wait()).await;
        let text = String::from_utf8_lossy(&std::fs::read(&output).unwrap()).into_owned();
        let text = self.ports.iter().fold(text, |text, (usual, own)| exchange(&text, *own, *usual));
        match status {
            Ok(status) => Ok((status.unwrap(), text)),
            Err(_) => {
                stop(&child, Signal::SIGKILL);
                Err(format!("does not end\n--- commands:\n{}--- output:\n{text}", block.commands))
            }
        }
    }

    /// Starts bash with the commands, in the state that the commands before have left.
    fn start(&self, block: &Block, output: &Path) -> Child {
        // A file of its own: bash reads on in it while it runs.
        let script = output.with_extension("commands");
        let ports = &self.ports;
        let commands = ports
            .iter()
            .fold(block.commands.clone(), |text, (usual, own)| exchange(&text, *usual, *own));
        let keep = match block.directive {
            Directive::Background => "",
            _ => r#"trap '{ export -p; printf "cd %q\n" "$PWD"; } > ~/.state' EXIT"#,
        };
        // Variables are exported so that the next block's shell has them.
        let whole =
            format!("[ ! -e ~/.state ] || . ~/.state\n{keep}\nset -a -e -o pipefail\n{commands}");
        std::fs::write(&script, whole).unwrap();
        let file = std::fs::File::create(output).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_selvedge")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        Command::new("bash")
            .args(["--norc", "--noprofile"])
            .arg(&script)
            .current_dir(&self.home)
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", format!("{}:{path}", binary.display()))
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Ends what runs in the background, once it has printed something. It must still run.
    async fn end(self) -> Result<(), String> {
        for Background { line, mut child, output } in self.background {
            let printed = || std::fs::read_to_string(&output).unwrap_or_default();
            let deadline = Instant::now() + PATIENCE;
            let mut ended = child.try_wait().unwrap();
            while ended.is_none() && printed().is_empty() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(50)).await;
                ended = child.try_wait().unwrap();
            }
            stop(&child, Signal::SIGTERM);
            let printed = printed();
            if let Some(status) = ended {
                return Err(format!("line {line}: ended early with {status}:\n{printed}"));
            }
            if printed.is_empty() {
                return Err(format!("line {line}: prints nothing"));
            }
        }
        Ok(())
    }
}

/// Ends a shell that has not ended, and what it runs.
fn stop(child: &Child, signal: Signal) {
    if let Some(pid) = child.id() {
        let _ = killpg(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
    }
}

/// `text` with the number `from` written as `to`, where it stands alone.
fn exchange(text: &str, from: u16, to: u16) -> String {
    let from = from.to_string();
    let mut changed = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(&from) {
        let (before, after) = (&rest[..at], &rest[at + from.len()..]);
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let alone = !before.ends_with(part) && !after.starts_with(part);
        changed.push_str(before);
        changed.push_str(if alone { "" } else { &from });
        if alone {
            changed.push_str(&to.to_string());
        }
        rest = after;
    }
    changed + rest
}

#[test]
fn ports_are_exchanged_where_they_stand_alone() {
    let text = "http://a.localhost:8080/8080x -p 8080\n18080";
    assert_eq!(exchange(text, 8080, 9), "http://a.localhost:9/8080x -p 9\n18080");
}
