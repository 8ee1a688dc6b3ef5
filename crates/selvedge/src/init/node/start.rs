//! From a start script to the command of a service: the program itself in place of the package
//! manager, so that signals reach it, and listening where the site wants it to.

use super::package::Package;

/// How a program is told where to listen.
struct Flags {
    program: &'static str,
    port: &'static [&'static str],
    /// What stands after the port's flag.
    value: &'static str,
    host: &'static [&'static str],
}

const PORT: &str = "$PORT";
const HOST: &str = "127.0.0.1";

/// Programs that don't read `PORT`, or listen at addresses that a service does not have.
const PROGRAMS: [Flags; 12] = [
    Flags { program: "next", port: &["--port", "-p"], value: PORT, host: &["--hostname", "-H"] },
    Flags { program: "vite", port: &["--port"], value: PORT, host: &["--host"] },
    Flags { program: "astro", port: &["--port"], value: PORT, host: &["--host"] },
    Flags {
        program: "serve",
        port: &["--listen", "-l", "-p"],
        value: "tcp://127.0.0.1:$PORT",
        host: &[],
    },
    Flags { program: "http-server", port: &["--port", "-p"], value: PORT, host: &["-a"] },
    Flags { program: "json-server", port: &["--port", "-p"], value: PORT, host: &["--host", "-H"] },
    Flags { program: "sirv", port: &["--port", "-p"], value: PORT, host: &["--host", "-H"] },
    Flags { program: "verdaccio", port: &["--listen", "-l"], value: "127.0.0.1:$PORT", host: &[] },
    Flags { program: "docsify", port: &["--port", "-p"], value: PORT, host: &[] },
    Flags { program: "node-red", port: &["--port", "-p"], value: PORT, host: &[] },
    Flags { program: "maildev", port: &["--web", "-w"], value: PORT, host: &["--web-ip"] },
    Flags { program: "peerjs", port: &["--port", "-p"], value: PORT, host: &["--host"] },
];

/// The beginnings of scripts that serve a developer and nobody else.
const DEVELOPMENT: [&str; 14] = [
    "vite",
    "vite dev",
    "vite serve",
    "next dev",
    "nuxt dev",
    "nuxi dev",
    "astro dev",
    "react-scripts start",
    "ng serve",
    "webpack serve",
    "webpack-dev-server",
    "vue-cli-service serve",
    "gatsby develop",
    "docusaurus start",
];

/// A start script, understood.
pub(super) struct Start {
    /// Begins with `exec`.
    pub(super) command: String,
    /// The program: `node`, or a command out of `node_modules/.bin`; `None` behind `npm start`.
    pub(super) program: Option<String>,
    /// What was changed about the script.
    pub(super) changes: Vec<String>,
}

/// Whether a script starts a development server.
pub(super) fn is_development(script: &str) -> bool {
    let words: Vec<&str> = script.split_whitespace().filter(|word| !is_assignment(word)).collect();
    let [first, rest @ ..] = words.as_slice() else { return false };
    let words = if matches!(*first, "cross-env" | "npx") { rest } else { &words };
    let plain = words.join(" ");
    DEVELOPMENT.iter().any(|development| {
        plain
            .strip_prefix(development)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(" -"))
    }) || words
        .iter()
        .any(|word| matches!(*word, "--serve" | "--watch") && plain.starts_with("eleventy"))
}

/// The command for the script `name`.
pub(super) fn start(package: &Package, name: &str) -> Option<Start> {
    let mut changes = Vec::new();
    let mut script = package.script(name)?;
    let mut name = name;
    // `npm run serve` and the like only point to another script.
    for _ in 0..3 {
        let before = package.script(&format!("pre{name}")).is_some();
        let hooks = before || package.script(&format!("post{name}")).is_some();
        if hooks {
            return Some(by_npm(name, format!("the script \"{name}\" has others around it")));
        }
        match pointed_to(script).and_then(|to| Some((to, package.script(to)?))) {
            Some((to, found)) => (name, script) = (to, found),
            None => break,
        }
    }
    if script.contains(|c: char| "&|;<>()`\\\n#!*?~'\"".contains(c)) {
        return Some(by_npm(name, format!("the script \"{name}\" is more than one program")));
    }
    let mut words: Vec<String> = script.split_whitespace().map(str::to_owned).collect();
    let mut variables = Vec::new();
    while let Some(first) = words.first() {
        if is_assignment(first) {
            variables.push(words.remove(0));
        } else if matches!(first.as_str(), "cross-env" | "npx" | "exec") {
            words.remove(0);
        } else {
            break;
        }
    }
    let program = words.first()?.clone();
    if matches!(program.as_str(), "npm" | "pnpm" | "yarn" | "bun") {
        let why = format!("the script \"{name}\" calls another package manager's command");
        return Some(by_npm(name, why));
    }
    watch_nothing(&mut words, &mut changes);
    let program = words.first().cloned().unwrap_or(program);
    if let Some(flags) = PROGRAMS.iter().find(|flags| flags.program == program) {
        listen(&mut words, flags, &mut changes);
    }
    if !is_of_the_system(&program)
        && let Some(first) = words.first_mut()
    {
        *first = format!("node_modules/.bin/{program}");
    }
    let mut all = vec!["exec".to_owned()];
    if !variables.is_empty() {
        all.push("env".into());
        all.extend(variables);
    }
    all.extend(words);
    Some(Start { command: all.join(" "), program: Some(program), changes })
}

/// The command for `file`, which is the program `name` itself, if that is one that must be told
/// where to listen.
pub(super) fn own_program(name: &str, file: &str) -> Option<Start> {
    let flags = PROGRAMS.iter().find(|flags| flags.program == name)?;
    let mut words = vec!["exec node".to_owned(), file.to_owned()];
    let mut changes = Vec::new();
    listen(&mut words, flags, &mut changes);
    Some(Start { command: words.join(" "), program: Some("node".into()), changes })
}

/// The command through npm, which passes signals on.
fn by_npm(name: &str, why: String) -> Start {
    let run = if name == "start" { "npm start".to_owned() } else { format!("npm run {name}") };
    Start {
        command: format!("exec {run}"),
        program: None,
        changes: vec![format!("{why}, so npm runs it")],
    }
}

fn pointed_to(script: &str) -> Option<&str> {
    let words: Vec<&str> = script.split_whitespace().collect();
    match words.as_slice() {
        ["npm" | "pnpm" | "yarn", "run", name] => Some(name),
        ["pnpm" | "yarn", name] => Some(name),
        _ => None,
    }
}

/// Reloading on changes is for developers, and a release does not change.
fn watch_nothing(words: &mut Vec<String>, changes: &mut Vec<String>) {
    let first = words.first().map(String::as_str).unwrap_or_default();
    match first {
        "nodemon" if words.get(1).is_some_and(|file| is_for_node(file)) => {
            if let Some(first) = words.first_mut() {
                *first = "node".into();
            }
            changes
                .push("nodemon watches for changes that a release never has: node runs it".into());
        }
        "node" | "tsx" => {
            let before = words.len();
            words.retain(|word| !matches!(word.as_str(), "--watch" | "watch"));
            if words.len() < before {
                changes.push("it need not watch for changes, which a release never has".into());
            }
        }
        "json-server" => {
            words.retain(|word| !matches!(word.as_str(), "--watch" | "-w"));
        }
        _ => {}
    }
}

/// Whether what nodemon is given is a file that it has node run, and not a flag or another's.
fn is_for_node(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    !file.starts_with('-') && matches!(extension, None | Some("js" | "mjs" | "cjs"))
}

/// Puts the port and the address in, or in the place of those that the script names.
fn listen(words: &mut Vec<String>, flags: &Flags, changes: &mut Vec<String>) {
    let set = |words: &mut Vec<String>, names: &[&str], value: &str| {
        let Some(name) = names.first() else { return };
        for index in 1..words.len() {
            let Some(word) = words.get(index) else { break };
            if names.contains(&word.as_str()) {
                match words.get_mut(index + 1) {
                    Some(old) if !old.starts_with('-') => *old = value.to_owned(),
                    // It stood alone, as `--host` may.
                    _ => words.insert(index + 1, value.to_owned()),
                }
                return;
            }
            let with_equals = names
                .iter()
                .any(|name| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')));
            if with_equals {
                words.remove(index);
                break;
            }
        }
        words.extend([(*name).to_owned(), value.to_owned()]);
    };
    set(words, flags.port, flags.value);
    set(words, flags.host, HOST);
    changes.push(format!("{} is told to listen on $PORT", flags.program));
}

fn is_of_the_system(program: &str) -> bool {
    matches!(program, "node" | "npm" | "sh" | "bash" | "env" | "python3" | "java" | "corepack")
        || program.contains('/')
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::Tree;
    use super::*;

    #[test]
    fn scripts_become_commands() {
        for (script, command) in [
            (
                "vite preview --host --port 4000",
                "exec node_modules/.bin/vite preview --host 127.0.0.1 --port $PORT",
            ),
            (
                "vite preview --port --host",
                "exec node_modules/.bin/vite preview --port $PORT --host 127.0.0.1",
            ),
            ("serve dist -l 80", "exec node_modules/.bin/serve dist -l tcp://127.0.0.1:$PORT"),
            ("node 'my server.js'", "exec npm start"),
            ("TITLE=\"Two words\" node server.js", "exec npm start"),
            ("nodemon ./bin/www", "exec node ./bin/www"),
            ("nodemon src/index.js --quick", "exec node src/index.js --quick"),
            (
                "nodemon --exec babel-node src/index.js",
                "exec node_modules/.bin/nodemon --exec babel-node src/index.js",
            ),
            ("nodemon src/index.ts", "exec node_modules/.bin/nodemon src/index.ts"),
            ("nodemon", "exec node_modules/.bin/nodemon"),
        ] {
            let json = serde_json::json!({"scripts": {"start": script}}).to_string();
            let package = Package::of(&Tree::of(&[("package.json", &json)])).expect("a package");
            assert_eq!(start(&package, "start").expect("a start").command, command, "{script}");
        }
    }
}
