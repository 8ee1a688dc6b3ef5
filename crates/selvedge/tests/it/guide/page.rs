//! A page of the guide as the test reads it: its commands, and what they are to print.

/// A fenced block of commands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The line of the page that the fence stands on, from 1.
    pub(super) line: usize,
    /// The commands.
    pub(super) commands: String,
    /// How the block is run.
    pub(super) directive: Directive,
    /// What it is to print, if the page says so.
    pub(super) output: Option<String>,
}

/// `<!-- test: ... -->` before a fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Directive {
    /// There is none: the block is run and must succeed.
    Run,
    /// `skip REASON`: not run.
    Skip(String),
    /// `fails CODE`: its last command ends with this code, and no other fails.
    Fails(i32),
    /// `repeat`: run again until it succeeds and prints what the page says.
    Repeat,
    /// `background`: started, and ended with the page.
    Background,
}

/// The blocks of a page.
pub(super) fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut directive = None;
    // Whether the next `text` block is what the last commands print.
    let mut awaiting = false;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix("<!-- test:") {
            let words = comment.strip_suffix("-->").ok_or(format!("line {}: no -->", index + 1))?;
            directive =
                Some(parse(words.trim()).map_err(|why| format!("line {}: {why}", index + 1))?);
            continue;
        }
        let Some(language) = trimmed.strip_prefix("```") else {
            if line.starts_with("    ") && trimmed.starts_with("selvedge ") {
                return Err(format!("line {}: commands stand in a fence, `sh`", index + 1));
            }
            if !trimmed.is_empty() && directive.is_some() {
                return Err(format!("line {}: a directive stands right before a fence", index + 1));
            }
            continue;
        };
        let mut body = String::new();
        for (_, line) in lines.by_ref() {
            if line.trim() == "```" {
                break;
            }
            body.push_str(line);
            body.push('\n');
        }
        match (language, directive.take()) {
            ("sh", found) => {
                let directive = found.unwrap_or(Directive::Run);
                awaiting = !matches!(directive, Directive::Skip(_) | Directive::Background);
                blocks.push(Block { line: index + 1, commands: body, directive, output: None });
            }
            ("text", None) if awaiting => {
                blocks.last_mut().unwrap().output = Some(body);
                awaiting = false;
            }
            ("text", Some(Directive::Skip(_)) | None) => awaiting = false,
            (_, Some(_)) => {
                return Err(format!("line {}: a directive for a block of no commands", index + 1));
            }
            ("toml" | "json", None) => awaiting = false,
            (other, None) => {
                return Err(format!(
                    "line {}: a fence of {other:?}, which nothing reads",
                    index + 1
                ));
            }
        }
    }
    match blocks.iter().find(|block| block.directive == Directive::Repeat && block.output.is_none())
    {
        Some(block) => Err(format!("line {}: repeated until it prints what?", block.line)),
        None => Ok(blocks),
    }
}

fn parse(words: &str) -> Result<Directive, String> {
    match words.split_once(' ').unwrap_or((words, "")) {
        ("skip", reason) if reason.len() > 3 => Ok(Directive::Skip(reason.to_owned())),
        ("skip", _) => Err("a skip has a reason".to_owned()),
        ("fails", code) => code.parse().map(Directive::Fails).map_err(|_| "fails CODE".to_owned()),
        ("repeat", "") => Ok(Directive::Repeat),
        ("background", "") => Ok(Directive::Background),
        _ => Err(format!("there is no directive {words:?}")),
    }
}

/// Whether commands printed what the page says. `…` stands for anything in a line, and alone on
/// one for any lines; how many spaces stand between words, and empty lines, do not matter.
pub(super) fn printed(output: &str, page: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).filter(|line| !line.is_empty()).collect()
    };
    let (output, page) = (lines(output), lines(page));
    all_match(
        &output,
        &page,
        |line: &String| line == "…",
        |line, wanted| {
            let (line, wanted): (Vec<char>, Vec<char>) =
                (line.chars().collect(), wanted.chars().collect());
            all_match(&line, &wanted, |c| *c == '…', |c, wanted| c == wanted)
        },
    )
}

/// Whether `items` are `wanted`, where a wanted item may stand for any number of items.
fn all_match<T>(
    items: &[T],
    wanted: &[T],
    any: impl Fn(&T) -> bool,
    same: impl Fn(&T, &T) -> bool,
) -> bool {
    // `reach[i]`: what is wanted so far can end before item `i`.
    let mut reach = vec![false; items.len() + 1];
    reach[0] = true;
    for want in wanted {
        let mut next = vec![false; items.len() + 1];
        for i in 0..=items.len() {
            next[i] = if any(want) {
                reach[i] || (i > 0 && next[i - 1])
            } else {
                i > 0 && reach[i - 1] && same(&items[i - 1], want)
            };
        }
        reach = next;
    }
    reach[items.len()]
}

#[test]
fn pages_are_read() {
    let page = "# A\n```sh\na\nb\n```\nprints\n```text\none …\n```\n```text\nnot its\n```\n\
        <!-- test: fails 3 -->\n\n```sh\nc\n```\n```toml\nx = 1\n```\n\
        <!-- test: skip it ends the machine -->\n```sh\nd\n```\n";
    let found = blocks(page).unwrap();
    let short: Vec<_> = found
        .iter()
        .map(|block| {
            (block.line, block.commands.as_str(), &block.directive, block.output.as_deref())
        })
        .collect();
    let skip = Directive::Skip("it ends the machine".into());
    assert_eq!(
        short,
        [
            (2, "a\nb\n", &Directive::Run, Some("one …\n")),
            (15, "c\n", &Directive::Fails(3), None),
            (22, "d\n", &skip, None),
        ]
    );
    for wrong in [
        "<!-- test: skip -->\n```sh\n```",
        "<!-- test: sometimes -->\n```sh\n```",
        "<!-- test: repeat -->\n```sh\nx\n```",
        "<!-- test: repeat -->\nwords\n```sh\nx\n```",
        "<!-- test: background -->\n```toml\nx\n```",
        "```bash\nselvedge status\n```",
        "```\nselvedge status\n```",
        "Then\n\n    selvedge status\n",
    ] {
        assert!(blocks(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn output_is_compared() {
    let output = "hello  3f9c1a live\n\n  8 of 8\nend\n";
    for page in ["hello … live\n8 of 8\nend", "…\nend", "hello…\n…", "…", "hello …\n…\nend"]
    {
        assert!(printed(output, page), "{page}");
    }
    for page in ["", "hello … live\nend", "hello … dead\n…", "…\n8 of 9\n…", "…\nend\nmore"]
    {
        assert!(!printed(output, page), "{page}");
    }
}
