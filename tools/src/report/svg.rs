//! A small SVG document: shapes with class names, one style sheet, every text escaped.
//!
//! Colours live in the style sheet only, so that a page can restyle a figure for a dark screen while the file beside
//! it stays fit for print.

use std::fmt::{Display, Write as _};

/// A position, in the document's units (CSS pixels at scale 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At(pub f64, pub f64);

/// Which end of a text stands at its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The text begins there.
    Start,
    /// The text is centred there.
    Middle,
    /// The text ends there.
    End,
}

/// An SVG drawing under construction.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    title: String,
    width: f64,
    height: f64,
    body: String,
}

/// `text` with the characters that mean something to HTML and XML replaced, and those XML forbids removed.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' => escaped.push(character),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => escaped.push(c),
        }
    }
    escaped
}

/// The width `text` takes at `size` pixels in an ordinary sans serif: an estimate on the generous side.
pub fn text_width(text: &str, size: f64) -> f64 {
    let ems: f64 = text.chars().map(character_width).sum();
    ems * size
}

fn character_width(character: char) -> f64 {
    match character {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | 'I' => 0.29,
        't' | 'f' | 'r' | '(' | ')' | ' ' | '-' | '/' => 0.37,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.9,
        c if c.is_ascii_uppercase() => 0.7,
        c if c.is_ascii() => 0.575,
        c if console::measure_text_width(c.encode_utf8(&mut [0; 4])) > 1 => 1.05,
        _ => 0.62,
    }
}

/// `text`, shortened with an ellipsis if it is wider than `width` at `size`.
pub fn fitted(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for character in text.chars() {
        kept.push(character);
        if text_width(&kept, size) + size > width {
            break;
        }
    }
    kept.pop();
    format!("{}…", kept.trim_end())
}

/// `text` broken at spaces into at most `lines` lines of `width`; the last one is shortened if need be.
pub fn wrapped(text: &str, size: f64, (width, lines): (f64, usize)) -> Vec<String> {
    let mut broken: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match broken.last_mut() {
            Some(line) if broken_fits(line, word, size, width) => {
                line.push(' ');
                line.push_str(word);
            }
            _ => broken.push(word.to_owned()),
        }
    }
    if broken.len() > lines {
        let rest = broken.split_off(lines.saturating_sub(1)).join(" ");
        broken.push(rest);
    }
    broken
        .iter()
        .map(|line| fitted(line, size, width))
        .collect()
}

fn broken_fits(line: &str, word: &str, size: f64, width: f64) -> bool {
    text_width(line, size) + text_width(" ", size) + text_width(word, size) <= width
}

impl Drawing {
    /// An empty drawing of the given size; `title` is what a screen reader says.
    pub fn new(title: &str, width: f64, height: f64) -> Self {
        Self {
            title: title.to_owned(),
            width,
            height,
            body: String::new(),
        }
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, from: At, to: At) {
        self.element(format_args!(
            r#"<line class="{class}" x1="{:.2}" y1="{:.2}" x2="{:.2}" y2="{:.2}"/>"#,
            from.0, from.1, to.0, to.1
        ));
    }

    /// A rectangle between two corners, in any order.
    pub fn rect(&mut self, class: &str, a: At, b: At) {
        let (x, y) = (a.0.min(b.0), a.1.min(b.1));
        let (width, height) = ((a.0 - b.0).abs(), (a.1 - b.1).abs());
        self.element(format_args!(
            r#"<rect class="{class}" x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}"/>"#
        ));
    }

    /// A path; `data` is built by [`PathData`].
    pub fn path(&mut self, class: &str, data: &PathData) {
        self.element(format_args!(r#"<path class="{class}" d="{}"/>"#, data.0));
    }

    /// A circle with a tooltip.
    pub fn dot(&mut self, class: &str, centre: At, (radius, tooltip): (f64, &str)) {
        self.element(format_args!(
            r#"<circle class="{class}" cx="{:.2}" cy="{:.2}" r="{radius:.2}"><title>{}</title></circle>"#,
            centre.0,
            centre.1,
            escape(tooltip)
        ));
    }

    /// A line of text; its baseline is at `at`.
    pub fn text(&mut self, class: &str, at: At, (anchor, text): (Anchor, &str)) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.element(format_args!(
            r#"<text class="{class}" x="{:.2}" y="{:.2}" text-anchor="{anchor}">{}</text>"#,
            at.0,
            at.1,
            escape(text)
        ));
    }

    /// Starts a group that is visible only inside the rectangle between two corners; ends with [`Self::end_clip`].
    pub fn begin_clip(&mut self, a: At, b: At) {
        self.element(format_args!(
            r#"<svg x="{x:.2}" y="{y:.2}" width="{w:.2}" height="{h:.2}" viewBox="{x:.2} {y:.2} {w:.2} {h:.2}" overflow="hidden">"#,
            x = a.0.min(b.0),
            y = a.1.min(b.1),
            w = (a.0 - b.0).abs(),
            h = (a.1 - b.1).abs()
        ));
    }

    /// Ends the group of [`Self::begin_clip`].
    pub fn end_clip(&mut self) {
        self.element(format_args!("</svg>"));
    }

    /// The drawing for use inside an HTML page that carries [`STYLE`] itself.
    pub fn inline(&self) -> String {
        self.document("")
    }

    /// The drawing as a file of its own: style sheet and background included.
    pub fn standalone(&self) -> String {
        let background = r#"<rect class="paper" width="100%" height="100%"/>"#;
        self.document(&format!("<style>{STYLE}</style>{background}"))
    }

    fn document(&self, head: &str) -> String {
        let (width, height) = (self.width, self.height);
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" class="plot" role="img" width="{w:.0}" height="{h:.0}" "#,
                r#"viewBox="0 0 {w:.0} {h:.0}"><title>{title}</title>{head}{body}</svg>"#
            ),
            w = width,
            h = height,
            title = escape(&self.title),
            head = head,
            body = self.body
        )
    }

    fn element(&mut self, element: impl Display) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.body, "{element}");
    }
}

/// The `d` attribute of a path, built from positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathData(String);

impl PathData {
    /// Starts a stroke.
    pub fn move_to(&mut self, to: At) -> &mut Self {
        self.push('M', to)
    }

    /// Continues the stroke straight.
    pub fn line_to(&mut self, to: At) -> &mut Self {
        self.push('L', to)
    }

    /// Closes the stroke to an area.
    pub fn close(&mut self) -> &mut Self {
        self.0.push('Z');
        self
    }

    fn push(&mut self, command: char, to: At) -> &mut Self {
        let _ = write!(self.0, "{command}{:.2} {:.2}", to.0, to.1);
        self
    }
}

/// Number of series colours; series beyond it start over.
pub const SERIES_COLOURS: usize = 5;

/// The light style, also that of print. Hues after Okabe and Ito's colour-blind safe set ("Color Universal Design",
/// 2008), darkened so that text in them is legible on white.
pub const STYLE: &str = "\
.plot{font-family:Inter,'Helvetica Neue',Helvetica,Arial,sans-serif;font-size:12px;font-variant-numeric:tabular-nums}
.plot .paper{fill:#fff}
.plot text{fill:#1f2933}.plot .title{font-size:15px;font-weight:600}.plot .strong{font-weight:600}.plot .big{font-size:17px;font-weight:600}
.plot .muted{fill:#66717d}.plot .small{font-size:11px}.plot .tiny{font-size:10px}
.plot .grid{stroke:#e9ecef;stroke-width:1}.plot .axis{stroke:#9aa5b1;stroke-width:1}.plot .tick{stroke:#9aa5b1}
.plot .bound{stroke:#4a5561;stroke-width:1.2;stroke-dasharray:5 3}.plot .lead{stroke:#9aa5b1;stroke-width:1;stroke-dasharray:1.5 2.5}
.plot .diamond{fill:#fff;stroke:#4a5561;stroke-width:1.4}
.plot .curve{fill:none;stroke-width:2;stroke-linejoin:round}.plot .dashed{stroke-dasharray:7 4}
.plot .s0{stroke:#0067a5}.plot .s1{stroke:#c8500a}.plot .s2{stroke:#00795c}.plot .s3{stroke:#a0478a}.plot .s4{stroke:#8a6a00}
.plot .f0{fill:#0067a5}.plot .f1{fill:#c8500a}.plot .f2{fill:#00795c}.plot .f3{fill:#a0478a}.plot .f4{fill:#8a6a00}
.plot .mass{fill-opacity:.16;stroke:none}
.plot .band{fill:#0067a5;fill-opacity:.08}.plot .theory{stroke:#0067a5;stroke-width:2}.plot text.theory{fill:#0067a5;stroke:none}
.plot .missarea{fill:#c8500a;fill-opacity:.14}.plot .missline{fill:none;stroke:#c8500a;stroke-width:1.6;stroke-linejoin:round}
.plot .missdot{fill:#c8500a}.plot .nodot{fill:#fff;stroke:#8a949e;stroke-width:1.3}.plot .firstmiss{fill:#c8500a;stroke:#fff;stroke-width:1.6}
.plot text.miss{fill:#b54708}.plot .span{stroke:#c8500a;stroke-width:1.4}
.plot .bad{stroke:#c8500a;stroke-width:1.6;fill:none}.plot .ok{stroke:#4a5561;stroke-width:1.4;fill:none}
.plot text.good{fill:#00694f}.plot .away{fill:#4a5561;fill-opacity:.1}
.plot .run{fill-opacity:.85}
";

/// The same classes on a dark screen; every selector is scoped so that it outranks [`STYLE`] in a page.
pub const DARK_STYLE: &str = "\
.page .plot .paper{fill:#14181d}
.page .plot text{fill:#e4e8ec}.page .plot text.muted{fill:#98a3af}
.page .plot .grid{stroke:#262d35}.page .plot .axis,.page .plot .tick{stroke:#5b6672}
.page .plot .bound{stroke:#aeb8c2}.page .plot .lead{stroke:#5b6672}.page .plot .diamond{fill:#14181d;stroke:#aeb8c2}
.page .plot .s0,.page .plot .theory{stroke:#5aaee8}.page .plot .s1{stroke:#f0925a}.page .plot .s2{stroke:#3fc39d}.page .plot .s3{stroke:#d68fc3}.page .plot .s4{stroke:#d6b13d}
.page .plot .f0,.page .plot .band{fill:#5aaee8}.page .plot .f1{fill:#f0925a}.page .plot .f2{fill:#3fc39d}.page .plot .f3{fill:#d68fc3}.page .plot .f4{fill:#d6b13d}
.page .plot text.theory{fill:#5aaee8;stroke:none}.page .plot text.miss{fill:#f0925a}.page .plot text.good{fill:#3fc39d}
.page .plot .missarea,.page .plot .missdot{fill:#f0925a}.page .plot .missline,.page .plot .span,.page .plot .bad{stroke:#f0925a}
.page .plot .firstmiss{fill:#f0925a;stroke:#14181d}.page .plot .nodot{fill:#14181d;stroke:#98a3af}
.page .plot .ok{stroke:#aeb8c2}.page .plot .away{fill:#aeb8c2}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_a_text_stays_text() {
        let mut drawing = Drawing::new("<b>&", 10.0, 10.0);
        drawing.text(
            "small",
            At(0.0, 0.0),
            (Anchor::Start, "</text><script>alert('\u{1}')"),
        );
        let svg = drawing.standalone();
        assert!(!svg.contains("<script>") && !svg.contains("<b>"));
        assert!(svg.contains("&lt;/text&gt;&lt;script&gt;alert(&#39;&#39;)"));
    }

    #[test]
    fn fitted_text_is_no_wider_than_its_place() {
        let text = "in the guest, ordinary process, host loaded";
        assert_eq!(fitted(text, 12.0, 900.0), text);
        let short = fitted(text, 12.0, 100.0);
        assert!(
            short.ends_with('…') && text_width(&short, 12.0) <= 100.0,
            "{short}"
        );
    }

    #[test]
    fn wrapped_text_keeps_every_word_when_there_is_room() {
        let lines = wrapped("one two three four five", 12.0, (60.0, 9));
        assert!(lines.len() > 1);
        assert_eq!(lines.join(" "), "one two three four five");
        assert_eq!(wrapped("one two three four five", 12.0, (60.0, 2)).len(), 2);
    }
}
