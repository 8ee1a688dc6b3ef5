//! The reference of the command line, made from its definition: man pages, and a page of the guide.

use std::path::Path;

use clap::Command;

/// Writes one page a verb to `directory`: `selvedge.1`, `selvedge-dev.1`. Returns how many.
pub(crate) fn write_man_pages(command: Command, directory: &Path) -> std::io::Result<usize> {
    fn write(command: &Command, directory: &Path) -> std::io::Result<usize> {
        let page = clap_mangen::Man::new(command.clone());
        let mut text = Vec::new();
        page.render(&mut text)?;
        // What follows a verb's options are its examples, to be shown line by line.
        let text =
            String::from_utf8_lossy(&text).replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n.nf\n");
        std::fs::write(directory.join(page.get_filename()), text)?;
        let mut written = 1;
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            written += write(verb, directory)?;
        }
        Ok(written)
    }
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write(&command, directory)
}

/// The page of the guide.
#[cfg(test)]
pub(crate) fn markdown(command: Command) -> String {
    let mut command = command.disable_help_subcommand(true).term_width(0);
    command.build();
    let mut page = String::from(
        "# Command line\n\nWhat `--help` says, verb by verb. Every verb also takes the options at the end.\n\n",
    );
    let groups = crate::help::groups();
    for (heading, verbs) in &groups {
        page.push_str(&format!("- {heading}: "));
        let links: Vec<String> =
            verbs.iter().map(|verb| format!("[`{verb}`](#selvedge-{verb})")).collect();
        page.push_str(&format!("{}\n", links.join(", ")));
    }
    for verb in
        groups.iter().flat_map(|(_, verbs)| verbs).filter_map(|verb| command.find_subcommand(verb))
    {
        section(verb, verb.get_name(), &mut page);
    }
    page.push_str("\n## Every verb\n\n");
    options(command.get_arguments().filter(|argument| argument.is_global_set()), &mut page);
    page
}

#[cfg(test)]
fn section(verb: &Command, path: &str, page: &mut String) {
    page.push_str(&format!("\n## selvedge {path}\n\n"));
    if let Some(about) = verb.get_long_about().or(verb.get_about()) {
        page.push_str(&format!("{about}\n\n"));
    }
    let usage = verb.clone().render_usage().to_string();
    page.push_str(&format!("```text\n{}\n```\n\n", usage.trim_start_matches("Usage: ")));
    options(verb.get_arguments().filter(|argument| !argument.is_global_set()), page);
    if let Some(examples) = verb.get_after_help() {
        let examples = examples.to_string();
        let (heading, lines) = examples.split_once('\n').unwrap_or((&examples, ""));
        // What follows the examples is for people.
        let (lines, words) = lines.split_once("\n\n").unwrap_or((lines, ""));
        page.push_str(&format!("\n{heading}\n\n```text\n"));
        lines.lines().for_each(|line| page.push_str(&format!("{}\n", line.trim_start())));
        page.push_str("```\n");
        if !words.is_empty() {
            page.push_str(&format!("\n{}\n", words.trim()));
        }
    }
    for nested in verb.get_subcommands().filter(|verb| verb.get_name() != "help") {
        section(nested, &format!("{path} {}", nested.get_name()), page);
    }
}

#[cfg(test)]
fn options<'c>(arguments: impl Iterator<Item = &'c clap::Arg>, page: &mut String) {
    let told = |argument: &&clap::Arg| !argument.is_hide_set() && argument.get_id() != "help";
    for argument in arguments.filter(told) {
        let form = argument.to_string();
        let default: Vec<String> = argument
            .get_default_values()
            .iter()
            .filter(|_| argument.get_action().takes_values())
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        page.push_str(&format!("- `{form}`: {}", help.trim_end_matches('.')));
        if !default.is_empty() {
            page.push_str(&format!(" (default `{}`)", default.join(" ")));
        }
        if let Some(variable) = variable {
            page.push_str(&format!(" (variable `{variable}`)"));
        }
        page.push_str(".\n");
    }
}
