//! Columns for people.

/// Columns of fixed widths, printed row by row as results come in.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
}

/// One column.
#[derive(Clone, Debug)]
pub struct Column {
    title: &'static str,
    width: usize,
    right: bool,
}

impl Column {
    /// A column of text, as wide as its longest cell.
    pub fn text(title: &'static str, longest: usize) -> Self {
        Self { title, width: longest.max(title.len()), right: false }
    }

    /// A column of numbers.
    pub fn number(title: &'static str, widest: usize) -> Self {
        Self { title, width: widest.max(title.len()), right: true }
    }
}

impl Table {
    /// A table of these columns.
    pub fn new(columns: Vec<Column>) -> Self {
        Self { columns }
    }

    /// The line of titles.
    pub fn header(&self) -> String {
        self.line(self.columns.iter().map(|column| column.title.to_owned()))
    }

    /// A line of cells, one per column.
    pub fn line(&self, cells: impl IntoIterator<Item = String>) -> String {
        let cells: Vec<_> = self
            .columns
            .iter()
            .zip(cells)
            .map(|(column, cell)| {
                let padding = " ".repeat(column.width.saturating_sub(cell.chars().count()));
                if column.right { padding + &cell } else { cell + &padding }
            })
            .collect();
        cells.join("  ").trim_end().to_owned()
    }
}

/// A name as a terminal can show it: control characters are escaped, because
/// they come from strangers and a terminal would obey them.
pub fn shown(name: &str) -> String {
    let escape = |c: char| {
        if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
    };
    name.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_titles() {
        let table = Table::new(vec![
            Column::text("picture", 3),
            Column::number("PSNR", 5),
            Column::text("file", 4),
        ]);
        assert_eq!(table.header(), "picture   PSNR  file");
        let cells = ["äb.png", "21.34", "out"].map(str::to_owned);
        assert_eq!(table.line(cells), "äb.png   21.34  out");
        assert_eq!(shown("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\nb");
    }
}
