//! The report's page: one HTML file with its style and figures inside, no scripts, nothing fetched.

use std::fmt::Write as _;

use super::svg::{DARK_STYLE, STYLE, escape};
use super::table::{Cell, Source, Table, Verdict};
use super::{Figure, HostCheck, HostVerdict, Report, Section};

/// A space as wide as a digit, and one as wide as a full stop.
const PADS: (char, char) = ('\u{2007}', '\u{2008}');

const PAGE_STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1f2933;--soft:#5b6672;--line:#e2e6ea;--paper:#fff;--tint:#f6f7f9;--good:#00694f;--warn:#8a6100;--bad:#b03a06}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 Inter,'Helvetica Neue',Helvetica,Arial,sans-serif}
main{max-width:940px;margin:0 auto;padding:56px 32px 96px}
h1{font-size:30px;line-height:1.2;letter-spacing:-.01em;margin:0 0 12px;font-weight:650}
h2{font-size:20px;margin:56px 0 10px;font-weight:650}
p{margin:0 0 12px;max-width:72ch}.summary{font-size:18px;color:var(--soft)}
pre{background:var(--tint);border:1px solid var(--line);border-radius:6px;padding:10px 14px;font:13px/1.5 ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
figure{margin:28px 0 36px}figure svg{display:block;width:100%;height:auto}figcaption{font-size:14px;color:var(--soft);max-width:80ch;margin-top:6px}
.wide{overflow-x:auto;margin:20px 0 28px}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;min-width:50%}
caption{text-align:left;font-size:14px;color:var(--soft);padding-bottom:8px}
th{font-weight:600;text-align:left;vertical-align:bottom;border-bottom:1.5px solid var(--ink);padding:4px 14px 4px 0}
th small{display:block;font-weight:400;color:var(--soft)}
td{border-bottom:1px solid var(--line);padding:5px 14px 5px 0;vertical-align:top}
td:last-child,th:last-child{padding-right:0}
.n{text-align:right;white-space:pre}th.n{white-space:normal}.paper{color:var(--soft);font-style:italic}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad);font-weight:600}.v{white-space:nowrap}
footer{margin-top:64px;padding-top:14px;border-top:1px solid var(--line);font-size:14px;color:var(--soft)}
";

const PAGE_DARK_STYLE: &str = "\
:root{--ink:#e4e8ec;--soft:#9aa5b0;--line:#2a323b;--paper:#14181d;--tint:#1b2027;--good:#3fc39d;--warn:#d6b13d;--bad:#f0925a}
";

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut out = String::new();
    let title = escape(&report.title);
    push(
        &mut out,
        format_args!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title>\n\
         <style>{PAGE_STYLE}{STYLE}@media screen and (prefers-color-scheme:dark){{{PAGE_DARK_STYLE}{DARK_STYLE}}}\n\
         @media print{{main{{padding:0;max-width:none}}figure,tr{{break-inside:avoid}}h2{{break-after:avoid}}}}</style></head>\n\
         <body class=\"page\"><main><h1>{title}</h1><p class=\"summary\">{}</p>\n<pre>{}</pre>\n",
            escape(&report.summary),
            escape(&report.command_line)
        ),
    );
    report
        .sections
        .iter()
        .for_each(|section| push_section(&mut out, section));
    push_host(&mut out, &report.host);
    let jobs = if report.jobs.is_empty() {
        ""
    } else {
        ", every job in jobs.csv"
    };
    push(
        &mut out,
        format_args!(
            "<footer>Beside this page: the results in result.json{jobs}, the figures in figures/. Quantiles are nearest-rank: \
         each is a measured value, none is interpolated.</footer></main></body></html>\n"
        ),
    );
    out
}

fn push_section(out: &mut String, section: &Section) {
    if !section.heading.is_empty() {
        push(out, format_args!("<h2>{}</h2>\n", escape(&section.heading)));
    }
    for paragraph in &section.prose {
        push(out, format_args!("<p>{}</p>\n", escape(paragraph)));
    }
    section
        .tables
        .iter()
        .for_each(|table| push_table(out, table));
    section
        .figures
        .iter()
        .for_each(|figure| push_figure(out, figure));
}

fn push_figure(out: &mut String, figure: &Figure) {
    push(
        out,
        format_args!(
            "<figure id=\"{}\">{}<figcaption>{}</figcaption></figure>\n",
            escape(&figure.name),
            figure.drawing.inline(),
            escape(&figure.caption)
        ),
    );
}

fn push_host(out: &mut String, host: &[HostCheck]) {
    if host.is_empty() {
        return;
    }
    out.push_str("<h2>Host</h2>\n<div class=\"wide\"><table><tbody>\n");
    for check in host {
        let (class, word) = match check.verdict {
            HostVerdict::Ok => ("good", "✓ ok"),
            HostVerdict::Warn => ("warn", "! warning"),
            HostVerdict::Bad => ("bad", "✗ bad"),
        };
        let (name, value) = (escape(&check.name), escape(&check.value));
        push(
            out,
            format_args!(
                "<tr><td>{name}</td><td>{value}</td><td class=\"v {class}\">{word}</td></tr>\n"
            ),
        );
    }
    out.push_str("</tbody></table></div>\n");
}

fn push_table(out: &mut String, table: &Table) {
    push(
        out,
        format_args!(
            "<div class=\"wide\"><table><caption>{}</caption><thead><tr>",
            escape(&table.caption)
        ),
    );
    for (index, column) in table.columns.iter().enumerate() {
        let unit = if column.unit.is_empty() {
            String::new()
        } else {
            format!("<small>{}</small>", escape(&column.unit))
        };
        push(
            out,
            format_args!(
                "<th class=\"{}\">{}{unit}</th>",
                column_class(table, index),
                escape(&column.title)
            ),
        );
    }
    out.push_str("</tr></thead><tbody>\n");
    let texts: Vec<_> = (0..table.columns.len())
        .map(|column| table.column_texts(column, PADS))
        .collect();
    for (index, row) in table.rows.iter().enumerate() {
        out.push_str("<tr>");
        for (column, column_texts) in texts.iter().enumerate() {
            let class = format!(
                "{}{}",
                column_class(table, column),
                cell_class(row.get(column))
            );
            push(
                out,
                format_args!(
                    "<td class=\"{class}\">{}</td>",
                    escape(&column_texts[index])
                ),
            );
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn column_class(table: &Table, index: usize) -> &'static str {
    let is_paper = table
        .columns
        .get(index)
        .is_some_and(|c| c.source == Source::Paper);
    match (table.is_numeric(index), is_paper) {
        (true, true) => "n paper",
        (true, false) => "n",
        (false, true) => "paper",
        (false, false) => "",
    }
}

fn cell_class(cell: Option<&Cell>) -> &'static str {
    match cell {
        Some(Cell::Verdict {
            verdict: Verdict::Met,
            ..
        }) => " v good",
        Some(Cell::Verdict {
            verdict: Verdict::Missed,
            ..
        }) => " v bad",
        _ => "",
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::super::table::Column;
    use super::*;

    #[test]
    fn a_table_aligns_numbers_marks_verdicts_and_sets_the_paper_apart() {
        let table = Table {
            caption: "t1 <b>".to_owned(),
            columns: vec![
                Column::new("scenario", ""),
                Column::of_paper("paper", "ms"),
                Column::new("target", ""),
            ],
            rows: vec![
                vec![
                    Cell::text("4 & loaded"),
                    Cell::number(30.5, 1),
                    Cell::judged(false, "0 misses"),
                ],
                vec![
                    Cell::text("1"),
                    Cell::number(80.0, 0),
                    Cell::judged(true, "0 misses"),
                ],
            ],
        };
        let mut out = String::new();
        push_table(&mut out, &table);
        assert!(out.contains("t1 &lt;b&gt;") && out.contains("4 &amp; loaded"));
        assert!(
            out.contains("<td class=\"n paper\">80\u{2008}\u{2007}</td>"),
            "{out}"
        );
        assert!(
            out.contains("<td class=\" v bad\">✗ 0 misses</td>")
                && out.contains("<td class=\" v good\">✓")
        );
    }
}
