//! `selvedge.toml` as `init` writes it: the least that works, with the reasons as comments.

use selvedge_model::AppName;

use super::{Command, Process, Proposal, Service, Variable};

/// Where comments are wrapped.
const WIDTH: usize = 98;
/// Longer commands are written one step a line.
const MAX_LINE: usize = 88;

/// The file's text. `directive` is the line that tells editors what to check it by.
pub(crate) fn render(proposal: &Proposal, name: &AppName, directive: &str) -> String {
    let mut file = File { text: String::new() };
    file.line(directive);
    file.comment(&format!(
        "{}. Written by `selvedge init`; `selvedge check` reads it as a push will.",
        capitalized(&proposal.what)
    ));
    file.line("");
    file.line("[app]");
    file.comment(
        "Without a host of its own it is served at NAME.ZONE, in a box at NAME.localhost.",
    );
    file.value("name", name.as_str());
    if let Some(build) = &proposal.build {
        file.command("build", build);
    }
    if let Some(test) = &proposal.test {
        file.command("test", test);
    }
    file.environment("[app.environment]", &proposal.environment);
    file.line("");
    file.line("[[service]]");
    file.value("name", "web");
    match &proposal.service {
        Service::Static { root, why, fallback } => {
            file.value("kind", "static");
            file.comment(why);
            file.value("root", root);
            if let Some(page) = fallback {
                file.comment("Paths that the browser makes up itself, and that are no files.");
                file.value("fallback", page);
            }
        }
        Service::Process(process) => file.process(process),
    }
    file.text
}

struct File {
    text: String,
}

impl File {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn comment(&mut self, text: &str) {
        let mut line = String::from("#");
        for word in printable(text).split_whitespace() {
            if line.len() + 1 + word.len() > WIDTH && line.len() > 1 {
                self.line(&line);
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line);
    }

    fn value(&mut self, key: &str, value: &str) {
        self.line(&format!("{key} = {}", quoted(value)));
    }

    fn command(&mut self, key: &str, command: &Command) {
        if !command.why.is_empty() {
            self.comment(&command.why);
        }
        let line = command.line();
        let multiline = command.steps.len() > 1 && line.len() > MAX_LINE;
        // A step with a character that TOML would have to escape is not made clearer by lines.
        let escapes = line.contains(|c: char| c == '\\' || c.is_control()) || line.contains("\"\"");
        if multiline && !escapes {
            self.line(&format!("{key} = \"\"\"\n{}\n\"\"\"", command.steps.join(" &&\n")));
        } else {
            self.value(key, &line);
        }
    }

    fn environment(&mut self, title: &str, variables: &[Variable]) {
        if variables.is_empty() {
            return;
        }
        self.line("");
        self.line(title);
        for variable in variables {
            self.comment(&variable.why);
            self.value(&variable.name, &variable.value);
        }
    }

    fn process(&mut self, process: &Process) {
        self.value("kind", "process");
        self.comment(&process.why);
        self.value("command", &process.command);
        match &process.health {
            Some(path) => {
                self.comment("Ready when this path answers 2xx or 3xx.");
                self.value("health", path);
            }
            None => {
                self.comment(
                    "Without `health` it counts as ready when it listens. Better, name a path that answers 2xx once all is well: health = \"/healthz\"",
                );
            }
        }
        if let Some(memory) = process.memory_mib {
            self.value("memory", &format!("{memory}MiB"));
        }
        if let Some(seconds) = process.start_timeout_s {
            self.value("start_timeout", &format!("{seconds}s"));
        }
        self.environment("[service.environment]", &process.environment);
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Without what a comment can't hold, or a terminal would act on.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
