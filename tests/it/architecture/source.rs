//! Reads a file of Rust into what the rules look at: the paths it names and the texts it quotes.
//!
//! Not a parser: comments are dropped, texts set aside, test modules left out, and `use` trees unfolded. That is enough
//! because rustfmt keeps the spelling regular.

/// A file of `src`, taken apart.
pub struct Source {
    /// In the repository, such as `src/features/member/http.rs`.
    pub path: String,
    /// The module that the file is, such as `["features", "member", "http"]`.
    pub module: Vec<String>,
    /// Every path of two or more names, with `crate`, `self` and `super` resolved: `crate` then stands first.
    pub paths: Vec<(usize, Vec<String>)>,
    /// Every text in quotes.
    pub texts: Vec<(usize, String)>,
    /// The name and line of every macro that is called.
    pub macros: Vec<(usize, String)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    /// `::` is one mark.
    Mark(&'static str),
}

type Tokens = Vec<(usize, Token)>;

impl Source {
    pub fn read(path: &str, text: &str) -> Self {
        let module = module_of(path);
        let mut tokens = tokens(text);
        drop_test_modules(&mut tokens);
        let mut source =
            Self { path: path.to_owned(), module, paths: Vec::new(), texts: Vec::new(), macros: Vec::new() };
        source.collect(&tokens);
        source
    }

    fn collect(&mut self, tokens: &Tokens) {
        let mut at = 0;
        while at < tokens.len() {
            let (line, token) = &tokens[at];
            match token {
                Token::Text(text) => self.texts.push((*line, text.clone())),
                // `+ use<'a>` says what a type captures, and brings nothing in.
                Token::Word(word) if word == "use" && !matches!(tokens.get(at + 1), Some((_, Token::Mark("<")))) => {
                    at = self.use_tree(tokens, at + 1, &[]);
                    continue;
                }
                Token::Word(_) => {
                    at = self.inline_path(tokens, at);
                    continue;
                }
                Token::Mark(_) => {}
            }
            at += 1;
        }
    }

    /// `a::b::{c, d::{e, f as g}, *}`; answers with where it ends.
    fn use_tree(&mut self, tokens: &Tokens, mut at: usize, before: &[String]) -> usize {
        let mut path = before.to_vec();
        let start = tokens.get(at).map_or(0, |(line, _)| *line);
        loop {
            match tokens.get(at).map(|(_, token)| token) {
                Some(Token::Word(word)) if word == "as" => at += 2,
                Some(Token::Word(word)) => {
                    path.push(word.clone());
                    at += 1;
                }
                Some(Token::Mark("::")) => at += 1,
                Some(Token::Mark("*")) => {
                    path.push("*".to_owned());
                    at += 1;
                }
                Some(Token::Mark("{")) => {
                    at += 1;
                    while !matches!(tokens.get(at).map(|(_, token)| token), Some(Token::Mark("}")) | None) {
                        at = self.use_tree(tokens, at, &path);
                        if matches!(tokens.get(at).map(|(_, token)| token), Some(Token::Mark(","))) {
                            at += 1;
                        }
                    }
                    return at + 1;
                }
                _ => break,
            }
        }
        self.push(start, path);
        at
    }

    /// `a::b::c`, or one name, or a macro's name.
    fn inline_path(&mut self, tokens: &Tokens, mut at: usize) -> usize {
        let line = tokens[at].0;
        let mut path = Vec::new();
        while let Some((_, Token::Word(word))) = tokens.get(at) {
            path.push(word.clone());
            at += 1;
            if matches!(tokens.get(at).map(|(_, token)| token), Some(Token::Mark("::")))
                && matches!(tokens.get(at + 1).map(|(_, token)| token), Some(Token::Word(_)))
            {
                at += 1;
            } else {
                break;
            }
        }
        if matches!(tokens.get(at).map(|(_, token)| token), Some(Token::Mark("!")))
            && let Some(name) = path.last()
        {
            self.macros.push((line, name.clone()));
        }
        if path.len() > 1 {
            self.push(line, path);
        }
        at.max(1)
    }

    fn push(&mut self, line: usize, path: Vec<String>) {
        let resolved = self.resolve(path);
        if !resolved.is_empty() {
            self.paths.push((line, resolved));
        }
    }

    fn resolve(&self, path: Vec<String>) -> Vec<String> {
        let mut rest = path.into_iter().peekable();
        let mut module = match rest.peek().map(String::as_str) {
            // The binary names the library; for it that is the same crate.
            Some("crate" | "bulkhead") => {
                rest.next();
                Vec::new()
            }
            Some("self" | "super") => self.module.clone(),
            _ => return rest.collect(),
        };
        while let Some(word) = rest.next_if(|word| word == "super" || word == "self") {
            if word == "super" {
                module.pop();
            }
        }
        std::iter::once("crate".to_owned()).chain(module).chain(rest).collect()
    }
}

fn module_of(path: &str) -> Vec<String> {
    let mut module: Vec<String> =
        path.trim_start_matches("src/").trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

fn tokens(text: &str) -> Tokens {
    const MARKS: [(&str, &str); 13] = [
        ("<", "<"),
        ("::", "::"),
        ("{", "{"),
        ("}", "}"),
        ("(", "("),
        (")", ")"),
        ("[", "["),
        ("]", "]"),
        (",", ","),
        (";", ";"),
        ("*", "*"),
        ("#", "#"),
        ("!", "!"),
    ];
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some((content, length)) = quoted(rest) {
            found.push((line, Token::Text(content.to_owned())));
            length
        } else if c == '\'' {
            character_or_lifetime(rest)
        } else if c.is_alphabetic() || c == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push((line, Token::Word(rest[..length].to_owned())));
            length
        } else if let Some((mark, name)) = MARKS.iter().find(|(mark, _)| rest.starts_with(mark)) {
            found.push((line, Token::Mark(name)));
            mark.len()
        } else {
            c.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

/// The content and the whole length of a text that begins here, in any of its spellings.
fn quoted(rest: &str) -> Option<(&str, usize)> {
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|prefix| {
        let after = rest.strip_prefix(prefix).unwrap_or_default();
        after.starts_with('"') || (prefix.ends_with('r') && after.trim_start_matches('#').starts_with('"'))
    });
    let prefix = prefix.unwrap_or_default();
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let start = hashes + 1;
        let close = format!("\"{}", "#".repeat(hashes));
        let end = start + body[start..].find(&close)?;
        return Some((&body[start..end], prefix.len() + end + close.len()));
    }
    let inside = body.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some((&inside[..at], prefix.len() + at + 2)),
            _ => {}
        }
    }
    None
}

fn character_or_lifetime(rest: &str) -> usize {
    let mut inside = rest[1..].char_indices();
    match inside.next() {
        Some((_, '\\')) => {
            inside.next();
            rest[1..].char_indices().skip(2).find(|(_, c)| *c == '\'').map_or(2, |(at, _)| at + 2)
        }
        Some((_, first)) if rest[1 + first.len_utf8()..].starts_with('\'') => first.len_utf8() + 2,
        _ => 1,
    }
}

/// Takes out `#[cfg(test)] mod name { ... }`: a test may set the scene with any room.
fn drop_test_modules(tokens: &mut Tokens) {
    let words = ["#", "[", "cfg", "(", "test", ")", "]"];
    let spelled = |token: &Token| match token {
        Token::Word(word) => word.clone(),
        Token::Mark(mark) => (*mark).to_owned(),
        Token::Text(_) => String::new(),
    };
    let mut at = 0;
    while at + words.len() < tokens.len() {
        let starts = words.iter().zip(&tokens[at..]).all(|(word, (_, token))| spelled(token) == *word);
        if !starts {
            at += 1;
            continue;
        }
        let mut depth = 0;
        let mut end = at + words.len();
        while end < tokens.len() {
            match tokens[end].1 {
                Token::Mark("{") => depth += 1,
                Token::Mark("}") if depth == 1 => break,
                Token::Mark("}") => depth -= 1,
                Token::Mark(";") if depth == 0 => break,
                _ => {}
            }
            end += 1;
        }
        tokens.drain(at..(end + 1).min(tokens.len()));
    }
}
