use super::*;

fn root(bytes: &[u8]) -> Result<Object> {
    parse(bytes).map(|pickle| pickle.root().clone())
}

#[test]
fn values_changed_after_they_were_kept_are_shared() -> anyhow::Result<()> {
    // d = {}; memo[0] = d; t = (d, d); d["a"] = 1 through the memo.
    let pickle = parse(b"\x80\x02}q\x00h\x00\x86q\x01h\x00X\x01\x00\x00\x00aK\x01s0.")?;
    let Object::Tuple(items) = pickle.root() else { anyhow::bail!("{:?}", pickle.root()) };
    for &item in items {
        let Object::Dict(pairs) = pickle.get(item) else { anyhow::bail!("no dict") };
        assert_eq!(pickle.text(pairs[0].0), Some("a"));
    }
    Ok(())
}

#[test]
fn integers_of_every_width() -> anyhow::Result<()> {
    for (bytes, value) in [
        (&b"K\xff."[..], 255),
        (b"M\xff\xff.", 65535),
        (b"J\xff\xff\xff\xff.", -1),
        (b"\x8a\x00.", 0),
        (b"\x8a\x01\xff.", -1),
        (b"\x8a\x05\x00\x00\x00\x00\x01.", 1 << 32),
    ] {
        assert_eq!(root(bytes)?, Object::Int(value), "{bytes:?}");
    }
    assert_eq!(root(b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.")?, Object::Opaque);
    Ok(())
}

#[test]
fn ordered_dicts_are_dicts_and_other_calls_are_not_made() -> anyhow::Result<()> {
    let ordered = parse(b"ccollections\nOrderedDict\n)RX\x01\x00\x00\x00aK\x01s.")?;
    assert!(matches!(ordered.root(), Object::Dict(items) if items.len() == 1));
    let python2 = parse(b"ccollections\nOrderedDict\n](](X\x01\x00\x00\x00aK\x01ee\x85R.")?;
    assert!(matches!(python2.root(), Object::Dict(items) if items.len() == 1));
    let hostile = parse(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R.")?;
    assert!(matches!(hostile.root(), Object::Call { .. }));
    Ok(())
}

#[test]
fn what_is_wrong_is_said() {
    for (bytes, message) in [
        (&b""[..], "cut short"),
        (b"K", "cut short"),
        (b".", "empty stack"),
        (b"(.", "empty stack"),
        (b"K\x01(0", "empty stack"),
        (b"t", "mark"),
        (b"h\x07.", "not kept"),
        (b"}(K\x01u.", "without a value"),
        (b"X\xff\xff\xff\xffa", "limit"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "limit"),
        (b"\x8b\xff\xff\xff\xff", "cut short"),
        (b"\x8c\x01\xff.", "UTF-8"),
        (b"cos", "does not end"),
        (b"K\x01K\x02\x93.", "not a string"),
        (b"i", "0x69"),
    ] {
        let error = root(bytes).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(message), "{bytes:?}: {error:?}");
    }
}

#[test]
fn limits_hold() {
    let deep = vec![b'('; MAX_MARKS + 1];
    let wide = vec![b')'; MAX_STACK + 1];
    let many: Vec<u8> = b")0".repeat(MAX_OBJECTS + 1);
    for (bytes, message) in [(deep, "nest"), (wide, "stack"), (many, "values")] {
        let error = root(&bytes).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(message), "{error:?}");
    }
    // A short instruction that copies a long list, over and over.
    let mut bytes = b"ccollections\nOrderedDict\nq\x00](".to_vec();
    bytes.extend(b")q\x02)\x86".repeat(1000));
    bytes.extend(b"e\x85q\x01");
    bytes.extend(b"h\x00h\x01R0".repeat(3000));
    let error = root(&bytes).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("dict items"), "{error:?}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let _ = parse(&bytes);
    }

    // Instructions that take no argument reach deeper than random bytes do.
    #[test]
    fn no_instructions_panic(
        picks in proptest::collection::vec(0_usize..24, 0..200),
    ) {
        const INSTRUCTIONS: [&[u8]; 24] = [
            b"(", b"0", b"1", b"N", b"K\x01", b")", b"\x85", b"\x86", b"\x87", b"t", b"]",
            b"l", b"a", b"e", b"}", b"d", b"s", b"u", b"q\x00", b"h\x00", b"R", b"Q",
            b"ccollections\nOrderedDict\n", b"X\x01\x00\x00\x00a",
        ];
        let mut bytes: Vec<u8> = picks.iter().flat_map(|&i| INSTRUCTIONS[i]).copied().collect();
        bytes.push(b'.');
        if let Ok(pickle) = parse(&bytes) {
            let _ = crate::pickle::state_dict::find(&pickle, Default::default());
        }
    }
}
