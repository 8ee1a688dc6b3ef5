//! Header fields as RFC 9110, 9111, 9213 and 8941 have them, read anew and slowly.

use crate::differential::case::Fields;

/// The values of a field's lines that are text: what is not ASCII is ignored where it has a grammar.
pub(super) fn lines<'a>(fields: &'a Fields, name: &str) -> Vec<&'a str> {
    let named = fields.iter().filter(|(own, _)| own == name);
    let text = named.filter_map(|(_, value)| std::str::from_utf8(value).ok());
    text.filter(|value| value.chars().all(|c| matches!(c, ' '..='~' | '\t'))).collect()
}

pub(super) fn has(fields: &Fields, name: &str) -> bool {
    fields.iter().any(|(own, _)| own == name)
}

/// The members of a list (RFC 9110, section 5.6.1); in tags, a backslash escapes nothing.
pub(super) fn members(fields: &Fields, name: &str, escapes: bool) -> Vec<String> {
    let mut members = Vec::new();
    for line in lines(fields, name) {
        let (mut member, mut quoted, mut escaped) = (String::new(), false, false);
        for c in line.chars() {
            if c == ',' && !quoted {
                members.push(std::mem::take(&mut member));
                continue;
            }
            if c == '"' && !escaped {
                quoted = !quoted;
            }
            escaped = escapes && quoted && c == '\\' && !escaped;
            member.push(c);
        }
        members.push(member);
    }
    let trimmed = members.iter().map(|member| member.trim().to_owned());
    trimmed.filter(|member| !member.is_empty()).collect()
}

/// Whole seconds, up to 2^31 (RFC 9111, section 1.2.2).
pub(super) fn seconds(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    for c in text.chars() {
        total = total.saturating_mul(10).saturating_add(u64::from(c.to_digit(10)?));
    }
    (!text.is_empty()).then(|| total.min(1 << 31))
}

/// An HTTP-date (RFC 9110, section 5.6.7) in seconds since 1970. What is before that is that.
pub(super) fn date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let text = text.trim();
    let parts: Vec<&str> = text.split([' ', '-']).filter(|part| !part.is_empty()).collect();
    let (day, month, year, clock) = match parts[..] {
        [week, day, month, year, clock, "GMT"] if week.ends_with(',') => (day, month, year, clock),
        [week, month, day, clock, year] if week.len() == 3 => (day, month, year, clock),
        _ => return None,
    };
    let number = |text: &str| text.parse::<i64>().ok();
    let mut year_number = number(year)?;
    if year.len() == 2 {
        year_number += if year_number < 70 { 2000 } else { 1900 };
    }
    let month = (MONTHS.find(month)? / 3) as i64 + 1;
    let mut of_clock = clock.split(':').map(number);
    let (hour, minute, second) = (of_clock.next()??, of_clock.next()??, of_clock.next()??);
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    let is_leap = year_number % 4 == 0 && (year_number % 100 != 0 || year_number % 400 == 0);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1];
    let days = 365 * (year_number - 1970) + leaps(year_number - 1) - leaps(1969);
    let days = days + before + i64::from(is_leap && month > 2) + number(day)? - 1;
    u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok().or(Some(0))
}

/// The date that a field's first line is, if that is one.
pub(super) fn dated(fields: &Fields, name: &str) -> Option<u64> {
    let (_, value) = fields.iter().find(|(own, _)| own == name)?;
    date(std::str::from_utf8(value).ok()?)
}

/// A text of a field's first line.
pub(super) fn first<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let (_, value) = fields.iter().find(|(own, _)| own == name)?;
    std::str::from_utf8(value)
        .ok()
        .filter(|value| value.chars().all(|c| matches!(c, ' '..='~' | '\t')))
}

/// `age`: the first member, as far as it is digits (RFC 9111, section 5.1).
pub(super) fn age(fields: &Fields) -> u64 {
    let text = first(fields, "age").unwrap_or("").trim();
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    seconds(&digits).unwrap_or(0)
}

/// Directives of caches: names in lower case, and arguments without their quotes.
pub(super) type Directives = Vec<(String, Option<String>)>;

pub(super) fn directives(fields: &Fields, name: &str) -> Directives {
    let split = |member: String| match member.split_once('=') {
        Some((name, argument)) => {
            let bare = argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            (name.to_lowercase(), Some(bare.unwrap_or(argument).to_owned()))
        }
        None => (member.to_lowercase(), None),
    };
    members(fields, name, true).into_iter().map(split).collect()
}

/// `cdn-cache-control` (RFC 9213), if it can be used: a dictionary (RFC 8941) that is not empty, in
/// which lifetimes are whole numbers.
pub(super) fn targeted(fields: &Fields) -> Option<Directives> {
    let all = fields.iter().filter(|(name, _)| name == "cdn-cache-control");
    let mut text = Vec::new();
    for (_, value) in all {
        text.push(std::str::from_utf8(value).ok().filter(|value| value.is_ascii())?);
    }
    if text.is_empty() {
        return None;
    }
    let text = text.join(",");
    let mut dictionary: Vec<(String, Bare)> = Vec::new();
    let mut rest = text.trim_matches(' ');
    while !rest.is_empty() {
        let (name, value, after) = member(rest)?;
        dictionary.retain(|(own, _)| *own != name);
        dictionary.push((name, value));
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start_matches([' ', '\t']);
            // A comma at the end.
            if rest.is_empty() {
                return None;
            }
        }
    }
    if dictionary.is_empty() {
        return None;
    }
    let mut directives = Directives::new();
    for (name, value) in dictionary {
        let is_lifetime = name == "max-age" || name == "s-maxage";
        match value {
            Bare::True => directives.push((name, None)),
            Bare::Number(number) => directives.push((name, Some(number))),
            Bare::Text(text) if name == "no-cache" || name == "private" => {
                directives.push((name, Some(text)));
            }
            _ if is_lifetime => return None,
            _ => {}
        }
    }
    Some(directives)
}

enum Bare {
    True,
    Number(String),
    Text(String),
    Other,
}

/// A dictionary's first member, and what is behind it. Generated cases have no inner lists, byte
/// sequences or dates, which are no dictionary here.
fn member(text: &str) -> Option<(String, Bare, &str)> {
    let (name, rest) = key(text)?;
    let (value, rest) = match rest.strip_prefix('=') {
        Some(rest) => bare(rest)?,
        None => (Bare::True, rest),
    };
    Some((name, value, parameters(rest)?))
}

fn key(text: &str) -> Option<(String, &str)> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.*".contains(c);
    let end = text.find(|c| !good(c)).unwrap_or(text.len());
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '*');
    starts.then(|| (text[..end].to_owned(), &text[end..]))
}

fn bare(text: &str) -> Option<(Bare, &str)> {
    let first = text.chars().next()?;
    if first == '"' {
        let (mut value, mut chars) = (String::new(), text[1..].char_indices());
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return Some((Bare::Text(value), &text[at + 2..])),
                '\\' => value.push(chars.next().map(|(_, c)| c).filter(|c| "\"\\".contains(*c))?),
                ' '..='~' => value.push(c),
                _ => return None,
            }
        }
        return None;
    }
    if first.is_ascii_alphabetic() || first == '*' {
        let good = |c: char| c.is_ascii_alphanumeric() || ":/!#$%&'*+-.^_`|~".contains(c);
        let end = text.find(|c| !good(c)).unwrap_or(text.len());
        return Some((Bare::Other, &text[end..]));
    }
    if first == '?' {
        let value = match text.get(..2)? {
            "?1" => Bare::True,
            "?0" => Bare::Other,
            _ => return None,
        };
        return Some((value, &text[2..]));
    }
    let end = text.find(|c: char| c != '-' && c != '.' && !c.is_ascii_digit());
    let (number, rest) = text.split_at(end.unwrap_or(text.len()));
    let digits = number.strip_prefix('-').unwrap_or(number);
    let good = |part: &str, most| {
        !part.is_empty() && part.len() <= most && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    match digits.split_once('.') {
        Some((whole, part)) => (good(whole, 12) && good(part, 3)).then_some((Bare::Other, rest)),
        None => good(digits, 15).then(|| (Bare::Number(number.to_owned()), rest)),
    }
}

fn parameters(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(parameter) = rest.strip_prefix(';') {
        let (_, after) = key(parameter.trim_start_matches(' '))?;
        rest = match after.strip_prefix('=') {
            Some(value) => bare(value)?.1,
            None => after,
        };
    }
    Some(rest)
}

/// The strings of a list of nothing else (RFC 8941, section 3.1).
pub(super) fn strings(fields: &Fields, name: &str) -> Vec<String> {
    let all: Vec<_> = fields.iter().filter(|(own, _)| own == name).collect();
    if lines(fields, name).len() < all.len() {
        return Vec::new();
    }
    let text = lines(fields, name).join(",");
    read_strings(text.trim_matches(' ')).unwrap_or_default()
}

fn read_strings(text: &str) -> Option<Vec<String>> {
    let (mut strings, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (Bare::Text(string), after) = bare(rest)? else { return None };
        strings.push(string);
        rest = parameters(after)?.trim_start_matches([' ', '\t']);
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start_matches([' ', '\t']);
            if rest.is_empty() {
                return None;
            }
        }
    }
    Some(strings)
}
