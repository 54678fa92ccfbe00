//! The stylesheet, the script and the icon, built into the program, and an organization's colours.
//!
//! Each asset's name carries a hash of its contents, so that a browser may keep it for ever and a new
//! version of the program is a new address.

use std::sync::LazyLock;

const CSS: &str = include_str!("assets/bulkhead.css");
const JS: &str = include_str!("assets/bulkhead.js");
const ICON: &str = include_str!("assets/bulkhead.svg");

/// The accent of the deployment's own pages, and of organizations that chose none.
pub const DEFAULT_ACCENT: &str = "#0f5f8c";

struct Asset {
    path: String,
    content_type: &'static str,
    content: &'static str,
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        Asset::new("css", "text/css; charset=utf-8", CSS),
        Asset::new("js", "text/javascript; charset=utf-8", JS),
        Asset::new("svg", "image/svg+xml", ICON),
    ]
});

impl Asset {
    fn new(extension: &str, content_type: &'static str, content: &'static str) -> Self {
        // Not a defence: it only has to differ when the contents do.
        let hash = crc32fast::hash(content.as_bytes());
        Self { path: format!("/assets/bulkhead-{hash:08x}.{extension}"), content_type, content }
    }
}

/// `/assets/bulkhead-<hash>.css`
#[must_use]
pub fn css_path() -> &'static str {
    &ASSETS[0].path
}

/// `/assets/bulkhead-<hash>.js`
#[must_use]
pub fn js_path() -> &'static str {
    &ASSETS[1].path
}

/// `/assets/bulkhead-<hash>.svg`
#[must_use]
pub fn icon_path() -> &'static str {
    &ASSETS[2].path
}

/// Content type and bytes of the asset of that name (without `/assets/`).
#[must_use]
pub fn find(name: &str) -> Option<(&'static str, &'static [u8])> {
    ASSETS
        .iter()
        .find(|asset| asset.path.strip_prefix("/assets/") == Some(name))
        .map(|asset| (asset.content_type, asset.content.as_bytes()))
}

/// The stylesheet that puts an organization's accent over the default one, for light and dark.
/// Anything but `#rrggbb` counts as no accent: what comes out is made of our own words and numbers,
/// never of the customer's text.
#[must_use]
pub fn theme_css(accent: Option<&str>) -> String {
    let accent = accent.and_then(Color::parse).or_else(|| Color::parse(DEFAULT_ACCENT)).unwrap_or(Color::BLACK);
    let (light, dark) = (Palette::new(accent, &LIGHT), Palette::new(accent, &DARK));
    format!(
        ":root{{{}}}\n@media (prefers-color-scheme:dark){{:root{{{}}}}}\n",
        light.declarations(),
        dark.declarations()
    )
}

/// A colour that [`theme_css`] would take.
#[must_use]
pub fn is_accent(text: &str) -> bool {
    Color::parse(text).is_some()
}

/// What an accent has to stand out from in one colour scheme.
struct Scheme {
    /// Every background that accent-coloured text may stand on (`--surface`, `--surface-raised`,
    /// `--surface-sunken` and `--info-soft` of the stylesheet).
    backgrounds: [Color; 4],
    /// The card that buttons stand on.
    raised: Color,
    /// Towards which an accent is moved until it can be seen.
    away: Color,
    /// How much the fill of a button must differ from the card. A pale colour in the light keeps its
    /// character and gets a dark edge instead; a dark one in the dark has to be lifted.
    fill: f64,
}

const LIGHT: Scheme = Scheme {
    backgrounds: [Color(0xf5, 0xf6, 0xf8), Color(0xff, 0xff, 0xff), Color(0xee, 0xf0, 0xf3), Color(0xef, 0xf4, 0xfa)],
    raised: Color(0xff, 0xff, 0xff),
    away: Color::BLACK,
    fill: 1.3,
};

const DARK: Scheme = Scheme {
    backgrounds: [Color(0x10, 0x12, 0x16), Color(0x18, 0x1b, 0x21), Color(0x12, 0x15, 0x1a), Color(0x19, 0x22, 0x2d)],
    raised: Color(0x18, 0x1b, 0x21),
    away: Color::WHITE,
    fill: 3.0,
};

/// WCAG 2.2, 1.4.3: text at least 4.5 to 1.
const TEXT: f64 = 4.5;
/// WCAG 2.2, 1.4.11: the outline of a control at least 3 to 1.
const OUTLINE: f64 = 3.0;

struct Palette {
    /// Fill of the primary button and of the monogram.
    accent: Color,
    /// Text on that fill.
    contrast: Color,
    /// Links and focus rings.
    text: Color,
    /// Outline of the filled button.
    edge: Color,
}

impl Palette {
    fn new(wanted: Color, scheme: &Scheme) -> Self {
        let accent = wanted.moved(scheme.away, |color| color.contrast(scheme.raised) >= scheme.fill);
        let text = wanted.moved(scheme.away, |color| scheme.backgrounds.iter().all(|b| color.contrast(*b) >= TEXT));
        // One of the two always reaches 4.58 to 1, whatever the fill.
        let contrast = if accent.contrast(Color::WHITE) >= TEXT { Color::WHITE } else { Color::BLACK };
        let edge = if accent.contrast(scheme.raised) >= OUTLINE { accent } else { text };
        Self { accent, contrast, text, edge }
    }

    fn declarations(&self) -> String {
        format!(
            "--accent:{};--accent-contrast:{};--accent-text:{};--accent-edge:{}",
            self.accent.hex(),
            self.contrast.hex(),
            self.text.hex(),
            self.edge.hex()
        )
    }
}

/// sRGB, eight bits a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Color(u8, u8, u8);

impl Color {
    const BLACK: Self = Self(0, 0, 0);
    const WHITE: Self = Self(255, 255, 255);

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#')?;
        if digits.len() != 6 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let [_, r, g, b] = u32::from_str_radix(digits, 16).ok()?.to_be_bytes();
        Some(Self(r, g, b))
    }

    fn hex(self) -> String {
        format!("#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }

    /// The nearest colour on the way to `end` that is good enough; `end` itself if none is before.
    fn moved(self, end: Self, good: impl Fn(Self) -> bool) -> Self {
        (0..=64_u16).map(|step| self.mixed(end, step)).find(|color| good(*color)).unwrap_or(end)
    }

    /// `step` sixty-fourths of the way to `end`.
    fn mixed(self, end: Self, step: u16) -> Self {
        let channel = |from: u8, to: u8| {
            let sum = u16::from(from) * (64 - step) + u16::from(to) * step;
            u8::try_from(sum / 64).unwrap_or(u8::MAX)
        };
        Self(channel(self.0, end.0), channel(self.1, end.1), channel(self.2, end.2))
    }

    /// WCAG 2.2 "contrast ratio": 1 to 21.
    fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    /// WCAG 2.2 "relative luminance".
    fn luminance(self) -> f64 {
        let linear = |channel: u8| {
            let c = f64::from(channel) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.0) + 0.7152 * linear(self.1) + 0.0722 * linear(self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDEOUS: [&str; 14] = [
        "#ffffff", "#000000", "#ffff00", "#00ff00", "#ff00ff", "#ff0000", "#0000ff", "#00ffff", "#808080", "#777777",
        "#fefefe", "#010101", "#c0ffee", "#bada55",
    ];

    #[test]
    fn every_accent_can_be_read() {
        let grid = (0..=255_u8).step_by(51);
        let all = grid
            .clone()
            .flat_map(|r| grid.clone().flat_map(move |g| (0..=255).step_by(51).map(move |b| Color(r, g, b))));
        for wanted in all.chain(HIDEOUS.iter().map(|text| Color::parse(text).unwrap())) {
            for scheme in [&LIGHT, &DARK] {
                let palette = Palette::new(wanted, scheme);
                assert!(palette.contrast.contrast(palette.accent) >= TEXT, "{wanted:?}: text on the button");
                for background in scheme.backgrounds {
                    assert!(palette.text.contrast(background) >= TEXT, "{wanted:?}: link on {background:?}");
                }
                assert!(palette.edge.contrast(scheme.raised) >= OUTLINE, "{wanted:?}: outline");
            }
        }
    }

    #[test]
    fn a_readable_accent_is_left_alone() {
        assert!(theme_css(Some("#0F5F8C")).starts_with(":root{--accent:#0f5f8c;--accent-contrast:#ffffff;"));
    }

    #[test]
    fn only_six_digits_make_a_colour() {
        for text in ["", "#fff", "0f5f8c", "#0f5f8g", "#+f5f8c", "#0f5f8c;", "red", "#0f5f8c}body{", "#ééé"] {
            assert!(!is_accent(text), "{text}");
            assert_eq!(theme_css(Some(text)), theme_css(None));
        }
    }

    #[test]
    fn the_stylesheet_holds_the_default_theme_and_the_backgrounds() {
        let tokens = |block: &str| block.replace([' ', '\n'], "");
        let sheet = tokens(CSS);
        for scheme in [&LIGHT, &DARK] {
            let palette = Palette::new(Color::parse(DEFAULT_ACCENT).unwrap(), scheme);
            assert!(sheet.contains(&palette.declarations()), "{}", palette.declarations());
            let names = ["--surface", "--surface-raised", "--surface-sunken", "--info-soft"];
            for (name, color) in names.iter().zip(scheme.backgrounds) {
                assert!(sheet.contains(&format!("{name}:{};", color.hex())), "{name}:{}", color.hex());
            }
        }
    }

    #[test]
    fn names_change_with_contents_and_all_is_small() {
        let name = css_path().strip_prefix("/assets/").unwrap();
        assert_eq!(find(name).unwrap(), ("text/css; charset=utf-8", CSS.as_bytes()));
        assert!(find("bulkhead.css").is_none() && find("../assets.rs").is_none());
        assert!(CSS.len() < 40_000 && JS.len() < 8_000);
        assert!(!CSS.contains("http:") && !CSS.contains("https:"), "no request to any other host");
    }
}
