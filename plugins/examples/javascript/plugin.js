// An Alpaca formatter: the same records, byte for byte, as those of `alpaca-formatter`.

// Unicode's `White_Space`. `String.trim` alone would also take U+FEFF for it, and not U+0085.
const BLANK = /^[\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$/;

export const formatting = {
  format(config, examples) {
    for (const [key] of config.settings) {
      throw { tag: "configuration", val: `unknown setting \`${key}\`; this plugin has no settings` };
    }
    return examples.map(formatOne);
  },
};

function formatOne({ tag, val: example }) {
  switch (tag) {
    case "instruction": {
      if (BLANK.test(example.output)) return { tag: "skipped", val: "empty output" };
      const start = prompt(example.instruction, example.input);
      return ready("text", { text: start + example.output, responseStart: utf8Length(start) });
    }
    case "preference": {
      const { chosen, rejected } = example;
      return ready("preference", { prompt: prompt(example.instruction, example.input), chosen, rejected });
    }
    case "triplet": {
      const { anchor, positive, negative } = example;
      return ready("triplet", { anchor, positive, negative });
    }
  }
}

function ready(tag, val) {
  return { tag: "ready", val: { tag, val } };
}

function prompt(instruction, input) {
  const middle = input === "" ? "" : `### Input:\n${input}\n`;
  return `### Instruction:\n${instruction}\n${middle}### Response:\n`;
}

// Offsets are in bytes of UTF-8; a string here counts in units of UTF-16.
function utf8Length(text) {
  let bytes = 0;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    // Each half of a surrogate pair counts two of its four bytes.
    bytes += unit < 0x80 ? 1 : unit < 0x800 || (unit >= 0xd800 && unit < 0xe000) ? 2 : 3;
  }
  return bytes;
}
