//! HTML in captions, which many were scraped from.

/// The text of a piece of HTML: without tags, comments, scripts and styles, with the
/// characters that entities name. What only looks like a tag stays (`a < b`).
pub(super) fn without_tags(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(at) = rest.find(['<', '&']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with('&') {
            rest = entity(rest, &mut out);
        } else if let Some(behind) = tag(rest) {
            rest = behind;
        } else {
            out.push('<');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// What is behind the tag or comment that `html` begins with, if it begins with one.
fn tag(html: &str) -> Option<&str> {
    if let Some(comment) = html.strip_prefix("<!--") {
        return comment.split_once("-->").map(|(_, behind)| behind);
    }
    let inside = &html[1..];
    if inside.starts_with(['!', '?', '/']) {
        let named = inside[1..].starts_with(|c: char| c.is_ascii_alphabetic());
        return (named || !inside.starts_with('/'))
            .then(|| inside.split_once('>').map(|(_, behind)| behind))
            .flatten();
    }
    let name: &str = inside.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    // A sign in quotes ends no tag.
    let mut quote = None;
    let end = inside.char_indices().find_map(|(at, c)| match (quote, c) {
        (Some(open), c) if c == open => {
            quote = None;
            None
        }
        (None, '\'' | '"') => {
            quote = Some(c);
            None
        }
        (None, '>') => Some(at),
        _ => None,
    })?;
    let behind = &inside[end + 1..];
    match name {
        // Their content is no text.
        "script" | "style" => {
            let close = format!("</{name}");
            Some(behind.find(&close).map_or("", |at| &behind[at..]))
        }
        _ => Some(behind),
    }
}

/// Reads the entity at the start of `html`; a name that means nothing stays, without its
/// semicolon, as in the reference's parser. Gives what is behind.
fn entity<'a>(html: &'a str, out: &mut String) -> &'a str {
    let body = &html[1..];
    let hex = body.starts_with("#x");
    let skip = if hex { 2 } else { usize::from(body.starts_with('#')) };
    let belongs = |c: char| match (skip, hex) {
        (_, true) => c.is_ascii_hexdigit(),
        (0, _) => c.is_ascii_alphanumeric(),
        _ => c.is_ascii_digit(),
    };
    let length = body[skip..].find(|c| !belongs(c)).unwrap_or(body.len() - skip);
    if length == 0 {
        out.push('&');
        return body;
    }
    let (name, behind) = body.split_at(skip + length);
    let behind = behind.strip_prefix(';').unwrap_or(behind);
    if skip > 0 {
        let code = u32::from_str_radix(&name[skip..], if hex { 16 } else { 10 }).unwrap_or(0);
        let c = char::from_u32(code).filter(|&c| c != '\0');
        out.push(c.unwrap_or(char::REPLACEMENT_CHARACTER));
        return behind;
    }
    let named = format!("&{name};");
    match html_escape::decode_html_entities(&named) {
        known if known != named => out.push_str(&known),
        _ => {
            out.push('&');
            out.push_str(name);
        }
    }
    behind
}
