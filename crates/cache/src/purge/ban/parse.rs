//! Text to expression.

use std::iter::Peekable;
use std::str::Chars;

use http::HeaderName;

use super::glob::Glob;
use super::{BanError, Expression, Field, MOST_COMPARISONS, MOST_DEPTH, Pattern};

/// What a comparison can begin with.
const OPERAND: &str = "path, host, tag, header(name), ! or (";

pub(super) fn parse(source: &str) -> Result<Expression, BanError> {
    let mut parser = Parser { rest: source.chars().peekable(), column: 1, comparisons: 0 };
    let expression = parser.any(0)?;
    match parser.look() {
        None => Ok(expression),
        Some(_) => Err(parser.unexpected("&&, || or the end")),
    }
}

/// A recursive descent: `any` is parts joined by `||`, `all` is parts joined by `&&`.
struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    /// Of the next character, from 1.
    column: usize,
    comparisons: usize,
}

impl Parser<'_> {
    fn any(&mut self, depth: usize) -> Result<Expression, BanError> {
        let first = self.all(depth)?;
        let mut parts = vec![first];
        while self.look() == Some('|') {
            self.pair('|', "||")?;
            parts.push(self.all(depth)?);
        }
        Ok(joined(parts, Expression::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Expression, BanError> {
        let first = self.one(depth)?;
        let mut parts = vec![first];
        while self.look() == Some('&') {
            self.pair('&', "&&")?;
            parts.push(self.one(depth)?);
        }
        Ok(joined(parts, Expression::All))
    }

    fn one(&mut self, depth: usize) -> Result<Expression, BanError> {
        let next = self.look();
        if matches!(next, Some('!' | '(')) && depth == MOST_DEPTH {
            return Err(BanError::TooDeep { column: self.column });
        }
        match next {
            Some('!') => {
                self.next();
                Ok(Expression::Not(Box::new(self.one(depth + 1)?)))
            }
            Some('(') => {
                self.next();
                let inner = self.any(depth + 1)?;
                self.expect(')', "&&, || or )")?;
                Ok(inner)
            }
            _ => self.comparison(),
        }
    }

    fn comparison(&mut self) -> Result<Expression, BanError> {
        self.look();
        let column = self.column;
        let field = self.field()?;
        self.comparisons += 1;
        if self.comparisons > MOST_COMPARISONS {
            return Err(BanError::TooMany { column });
        }
        let negated = self.look() == Some('!');
        if negated {
            self.next();
        }
        let operators = "==, !=, ~ or !~";
        // In `!=` and `!~` the two characters are one word, so no space is skipped between them.
        let pattern = match self.rest.peek() {
            Some('~') => {
                self.next();
                Pattern::Glob(self.glob()?)
            }
            Some('=') => {
                self.next();
                if !negated {
                    self.adjacent('=', operators)?;
                }
                Pattern::Text(self.text()?)
            }
            _ => return Err(self.unexpected(operators)),
        };
        let comparison = Expression::Compare(field, pattern);
        Ok(if negated { Expression::Not(Box::new(comparison)) } else { comparison })
    }

    fn field(&mut self) -> Result<Field, BanError> {
        let column = self.column;
        let word = self.word();
        match &*word {
            "path" => Ok(Field::Path),
            "host" => Ok(Field::Host),
            "tag" => Ok(Field::Tag),
            "header" => {
                self.expect('(', "(")?;
                self.look();
                let column = self.column;
                let name = self.word();
                let header = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| BanError::Header { column, name })?;
                self.expect(')', ")")?;
                Ok(Field::Header(header))
            }
            "" => Err(self.unexpected(OPERAND)),
            _ => {
                let found = format!("{word:?}");
                Err(BanError::Unexpected { column, expected: OPERAND, found })
            }
        }
    }

    /// The characters up to the next space or operator.
    fn word(&mut self) -> String {
        let mut word = String::new();
        let within = |next: &char| !next.is_whitespace() && !"()!=~&|\"".contains(*next);
        while let Some(next) = self.rest.next_if(within) {
            self.column += 1;
            word.push(next);
        }
        word
    }

    fn text(&mut self) -> Result<String, BanError> {
        let mut text = String::new();
        self.quoted(|character, column| match character {
            Quoted::Plain(next) | Quoted::Escaped(next @ ('"' | '\\')) => {
                text.push(next);
                Ok(())
            }
            Quoted::Escaped(_) => Err(BanError::Escape { column }),
        })?;
        Ok(text)
    }

    fn glob(&mut self) -> Result<Glob, BanError> {
        let mut parts = Vec::new();
        let mut part = String::new();
        self.quoted(|character, column| {
            match character {
                Quoted::Plain('*') => parts.push(std::mem::take(&mut part)),
                Quoted::Plain(next) | Quoted::Escaped(next @ ('"' | '\\' | '*')) => part.push(next),
                Quoted::Escaped(_) => return Err(BanError::Escape { column }),
            }
            Ok(())
        })?;
        parts.push(part);
        Ok(Glob::new(parts))
    }

    /// Gives each character of a quoted text, and its column, to `take`.
    fn quoted(
        &mut self,
        mut take: impl FnMut(Quoted, usize) -> Result<(), BanError>,
    ) -> Result<(), BanError> {
        self.look();
        let begin = self.column;
        self.expect('"', "a text in \"\"")?;
        loop {
            let column = self.column;
            match self.next() {
                Some('"') => return Ok(()),
                Some('\\') => {
                    let escaped = self.next().ok_or(BanError::Open { column: begin })?;
                    take(Quoted::Escaped(escaped), column)?;
                }
                Some(next) => take(Quoted::Plain(next), column)?,
                None => return Err(BanError::Open { column: begin }),
            }
        }
    }

    /// The next character that is no space, which is not taken.
    fn look(&mut self) -> Option<char> {
        while self.rest.next_if(|next| next.is_whitespace()).is_some() {
            self.column += 1;
        }
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        self.column += 1;
        self.rest.next()
    }

    fn expect(&mut self, wanted: char, expected: &'static str) -> Result<(), BanError> {
        self.look();
        self.adjacent(wanted, expected)
    }

    fn adjacent(&mut self, wanted: char, expected: &'static str) -> Result<(), BanError> {
        if self.rest.next_if_eq(&wanted).is_none() {
            return Err(self.unexpected(expected));
        }
        self.column += 1;
        Ok(())
    }

    fn pair(&mut self, wanted: char, expected: &'static str) -> Result<(), BanError> {
        self.adjacent(wanted, expected)?;
        self.adjacent(wanted, expected)
    }

    fn unexpected(&mut self, expected: &'static str) -> BanError {
        let found = self.rest.peek().map_or("the end".to_owned(), |next| format!("{next:?}"));
        BanError::Unexpected { column: self.column, expected, found }
    }
}

enum Quoted {
    Plain(char),
    /// After a backslash.
    Escaped(char),
}

fn joined(
    mut parts: Vec<Expression>,
    join: impl FnOnce(Vec<Expression>) -> Expression,
) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            join(parts)
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::{CONTENT_TYPE, HeaderValue};

    use super::super::Ban;
    use super::*;
    use crate::purge::{Labels, Tags};

    fn matches(expression: &str) -> bool {
        let mut tags = Tags::default();
        tags.add(b"news").unwrap();
        tags.add(b"a\"b\\c*").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("image/png"));
        headers.append("x-more", HeaderValue::from_static("one"));
        headers.append("x-more", HeaderValue::from_static("two"));
        let (path, host) = (b"/img/2024/cat.png", b"example.com");
        let labels =
            Labels { app: b"app", url: b"key", host, path, tags: &tags, headers: &headers };
        expression.parse::<Ban>().unwrap().matches(&labels)
    }

    #[test]
    fn expressions_say_what_they_mean() {
        for expression in [
            r#"path ~ "/img/*" && header(content-type) ~ "image/*""#,
            r#"tag == "news""#,
            r#"tag=="news"&&path!="/""#,
            r#"tag == "no" || tag == "news" && host == "example.com""#,
            r#"!(tag == "no" || host != "example.com")"#,
            r#"! ! tag ~ "n*s""#,
            r#"header(X-More) == "two" && header(X-More) == "one""#,
            r#"header(absent) != "x" && header(absent) !~ "*""#,
            r#"path ~ "*cat*" && path ~ "*" && path ~ "/img/*/*.png""#,
            r#"tag == "a\"b\\c*" && tag ~ "a*\*" && tag ~ "a\"*""#,
        ] {
            assert!(matches(expression), "{expression}");
        }
        for expression in [
            r#"path ~ "/img""#,
            r#"path == "/img/*""#,
            r#"path ~ "/img/*" && header(content-type) ~ "text/*""#,
            r#"tag != "news""#,
            r#"host == "EXAMPLE.com""#,
            r#"(tag == "no" || tag == "news") && host == "other""#,
            r#"header(x-more) !~ "t*""#,
            r#"header(absent) == """#,
            r#"tag ~ "n\*s""#,
        ] {
            assert!(!matches(expression), "{expression}");
        }
    }

    #[track_caller]
    fn refused(expression: &str, message: &str) {
        let error = expression.parse::<Ban>().unwrap_err();
        assert_eq!(error.to_string(), message, "{expression}");
    }

    #[test]
    fn refusals_name_the_column() {
        refused("", &format!("column 1: expected {OPERAND}, found the end"));
        refused(r#"tag == "x" &&"#, &format!("column 14: expected {OPERAND}, found the end"));
        refused("name == \"x\"", &format!("column 1: expected {OPERAND}, found \"name\""));
        refused("tag = \"x\"", "column 6: expected ==, !=, ~ or !~, found ' '");
        refused("tag ! = \"x\"", "column 6: expected ==, !=, ~ or !~, found ' '");
        refused("tag == x", "column 8: expected a text in \"\", found 'x'");
        refused("é", &format!("column 1: expected {OPERAND}, found \"é\""));
        refused(r#"tag == "é" tag"#, "column 12: expected &&, || or the end, found 't'");
        refused(r#"tag == "x" & tag"#, "column 13: expected &&, found ' '");
        refused(r#"tag == "x"#, "column 8: the text that begins here has no closing \"");
        refused(r#"tag == "x\"#, "column 8: the text that begins here has no closing \"");
        refused(r#"tag == "a\*""#, "column 10: \\ stands before \", \\ and, in a pattern, * only");
        refused(r#"(tag == "x""#, "column 12: expected &&, || or ), found the end");
        refused(r#"header(a b) == "x""#, "column 10: expected ), found 'b'");
        refused(r#"header(é) == "x""#, "column 8: \"é\" is not the name of a header field");
        refused(r#"header() == "x""#, "column 8: \"\" is not the name of a header field");
    }

    #[test]
    fn expressions_are_bounded() {
        let many = vec![r#"tag == "x""#; MOST_COMPARISONS + 1].join("||");
        refused(&many, "column 193: a ban expression has at most 16 comparisons");
        let negated = |depth: usize| format!("{}tag == \"x\"", "!".repeat(depth));
        assert!(negated(MOST_DEPTH).parse::<Ban>().is_ok());
        refused(&negated(MOST_DEPTH + 1), "column 9: ( and ! are at most 8 deep");
        refused(&"(".repeat(1000), "column 9: ( and ! are at most 8 deep");
        refused(&" ".repeat(1025), "a ban expression is at most 1024 bytes long, and this is 1025");
    }
}
