//! Tables for people: aligned columns without frames.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, Table, presets};

/// What a table's columns are.
pub struct Columns {
    /// Their names.
    pub names: &'static [&'static str],
    /// Those aligned to the right.
    pub numbers: &'static [&'static str],
}

impl Columns {
    /// An empty table.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(self.names.iter().map(Cell::new).collect::<Vec<_>>());
        for (column, name) in table.column_iter_mut().zip(self.names) {
            column.set_padding((0, 2));
            if self.numbers.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// Writes a table.
///
/// # Errors
///
/// Those of writing.
pub fn print(out: &mut impl Write, table: &Table) -> io::Result<()> {
    table
        .lines()
        .try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}
