//! Java: programs of a few source files, and jars.

use super::later::later;
use super::{Command, Detection, Process, Proposal, Service, Tree, node};

/// The heap and the JVM itself, in MiB.
const MEMORY_MIB: u32 = 512;
/// The JVM does not see the limit of its sandbox, so it is told. One collector thread is enough for
/// a heap of this size.
const OPTIONS: &str = "-Xmx320m -XX:+UseSerialGC";
/// The JVM starts slowly where many start at once.
const START_TIMEOUT_S: u32 = 60;

/// Recognises a jar that is there, or sources that javac alone can build.
pub(super) fn detect(tree: &Tree<'_>) -> Detection {
    if let Some(jar) = jar(tree) {
        return Detection::App(Box::new(jar));
    }
    let tool = tree.first(&["pom.xml", "build.gradle", "build.gradle.kts"]);
    match tool {
        // What these are is said among the kinds that come later.
        Some(_) => Detection::Unknown,
        None => sources(tree),
    }
}

fn jar(tree: &Tree<'_>) -> Option<Proposal> {
    let places = ["", "target/", "build/libs/", "lib/"];
    let is_program = |path: &&str| {
        path.ends_with(".jar")
            && !["-sources.jar", "-javadoc.jar", "-plain.jar", "-tests.jar", "original-", "wrapper"]
                .iter()
                .any(|part| path.contains(part))
            && path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/+".contains(c))
    };
    let mut jars: Vec<&str> = Vec::new();
    for place in places {
        let here = tree
            .files()
            .filter(|path| path.strip_prefix(place).is_some_and(|name| !name.contains('/')));
        jars = here.filter(is_program).collect();
        // Several in lib/ are libraries.
        if place == "lib/" && jars.len() > 1 {
            jars.clear();
        }
        if !jars.is_empty() {
            break;
        }
    }
    let jar = *jars.first()?;
    let bytes = tree.bytes(jar)?;
    // The names of a zip's entries stand in it as they are.
    let holds = |name: &[u8]| bytes.windows(name.len()).any(|window| window == name);
    let spring = holds(b"BOOT-INF/") || holds(b"org/springframework/boot/loader/");
    let quarkus = holds(b"io/quarkus/bootstrap/runner/");
    let (what, command) = if spring {
        (
            "a Spring Boot application",
            format!(
                "exec java {OPTIONS} -jar {jar} --server.port=$PORT --server.address=127.0.0.1 --server.shutdown=graceful"
            ),
        )
    } else if quarkus {
        (
            "a Quarkus application",
            format!(
                "exec java {OPTIONS} -Dquarkus.http.port=$PORT -Dquarkus.http.host=127.0.0.1 -jar {jar}"
            ),
        )
    } else {
        ("a Java program", format!("exec java {OPTIONS} -jar {jar}"))
    };
    let mut process = process(command, format!("Runs {jar}; the heap stays below `memory`."));
    process.health = None;
    let mut proposal = Proposal::new(what, Service::Process(process));
    proposal.saw.push(jar.to_owned());
    if !spring && !quarkus {
        proposal.assumed.push(format!("{jar} reads the variable PORT and listens there"));
    }
    if let Some(other) = jars.get(1) {
        proposal.look_at.push(format!(
            "there are other jars too, such as {other}: name the right one in `command`"
        ));
    }
    Some(proposal)
}

fn process(command: String, why: String) -> Process {
    let mut process = Process::new(command, why);
    process.memory_mib = Some(MEMORY_MIB);
    process.start_timeout_s = Some(START_TIMEOUT_S);
    process
}

fn sources(tree: &Tree<'_>) -> Detection {
    let found = tree.sources(&[".java"]);
    let mains: Vec<(&str, String)> = found
        .iter()
        .filter_map(|path| Some((*path, main_class(path, &tree.text(path)?)?)))
        .collect();
    let Some((path, class)) = mains.first() else {
        return match found.is_empty() {
            true => Detection::Unknown,
            false => Detection::Later(later("Java sources without a class that has a `main`", "")),
        };
    };
    let jars = tree.has_directory("lib");
    let class_path = if jars { " -cp 'classes:lib/*'" } else { " -cp classes" };
    let libraries = if jars { " -cp 'lib/*'" } else { "" };
    let own = if found.len() == 1 {
        (*path).to_owned()
    } else {
        // The directory that packages start in, or the top.
        let top = path.split('/').next().filter(|_| path.contains('/')).unwrap_or(".");
        format!("$(find {top} -name '*.java' -not -path '*/test/*')")
    };
    let why = format!(
        "Compiled once at each push, so that mistakes refuse it and no site compiles. {path} has the `main`."
    );
    let mut process = process(
        format!("exec java {OPTIONS}{class_path} {class}"),
        "The heap stays below `memory`: the JVM does not see its limit by itself.".into(),
    );
    process.health = node::health(tree, &[".java"]);
    let mut proposal = Proposal::new("a Java program", Service::Process(process));
    proposal.saw.push(format!("{path}: a class with a `main`"));
    proposal.build =
        Command::new([format!("javac -encoding UTF-8 -d classes{libraries} {own}")], why);
    let reads = found.iter().any(|path| tree.text(path).is_some_and(|text| text.contains("PORT")));
    if !reads {
        proposal.look_at.push("no source reads the variable PORT: listen on Integer.parseInt(System.getenv(\"PORT\")), since a site gives each program its own".into());
    }
    if let Some((other, _)) = mains.get(1) {
        proposal
            .look_at
            .push(format!("{other} has a `main` too: name the right class in `command`"));
    }
    Detection::App(Box::new(proposal))
}

/// The full name of the file's class, if it has a `main`.
fn main_class(path: &str, text: &str) -> Option<String> {
    if !text.contains("static void main(") {
        return None;
    }
    let file = path.rsplit('/').next()?.strip_suffix(".java")?;
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let package = text.lines().find_map(|line| {
        let name = line.trim().strip_prefix("package ")?.split(';').next()?.trim();
        name.split('.').all(is_name).then(|| name.to_owned())
    });
    // A single-file program may call its class otherwise than its file.
    let class = if text.contains(&format!("class {file}")) {
        file
    } else {
        let before = text.split("static void main(").next()?;
        let after = before.rsplit("class ").next()?;
        after.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next()?
    };
    let plain_path = path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    if !is_name(class) || !plain_path {
        return None;
    }
    Some(package.map_or_else(|| class.to_owned(), |package| format!("{package}.{class}")))
}
