//! Text repaired before anything is read into it.

use unicode_normalization::UnicodeNormalization;

/// What a web server makes of a form: `+` is a blank, `%` and two digits a byte.
pub(super) fn unquoted(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
        });
        match (bytes[at], code) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What `ftfy` does to text whose characters are the right ones: ligatures apart, full
/// width as usual, straight quotes, `\n` for all ends of lines, no control characters, one
/// form of each character.
pub(super) fn repaired(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{80}'..='\u{9f}' => out.push(WINDOWS_1252[c as usize - 0x80]),
            '\u{132}'
            | '\u{133}'
            | '\u{149}'
            | '\u{1c4}'..='\u{1cc}'
            | '\u{1f1}'..='\u{1f3}'
            | '\u{fb00}'..='\u{fb06}'
            | '\u{3000}'
            | '\u{ff01}'..='\u{ffef}' => out.extend(std::iter::once(c).nfkc()),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
            '\u{201c}'..='\u{201f}' => out.push('"'),
            '\r' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' => (),
            '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => (),
            c => out.push(c),
        }
    }
    out.nfc().collect()
}

/// What Windows means by the bytes that Unicode has no characters for.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];
