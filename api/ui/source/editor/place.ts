/**
 * The place of the cursor in a playbook: the keys that lead to it, from the indentation of the lines before it.
 * A parser would not help, because the text is incomplete where a person types.
 */

export interface Place {
  /** The keys that lead to the mapping or list of the cursor. `-` stands for an item of a list. */
  path: string[];
  /** The key whose value is typed; null while a key, or an item of a list, is typed. */
  key: string | null;
  /** What is typed already. */
  prefix: string;
  /** The other keys of the same mapping, with their values as written. */
  siblings: Map<string, string>;
  /** The action types of the mappings around, by the number of keys that lead to each. */
  actions: Map<number, string>;
}

interface Token {
  indent: number;
  key: string;
  value: string;
}

const KEY = /^("(?:[^"\\]|\\.)*"|'[^']*'|[^\s:#"'{[-][^:#]*?)\s*:(?:\s+|$)(.*)$/;

/** Return the markers and keys at the start of a line, each with its column. */
function readLine(line: string): { tokens: Token[]; rest: string; indent: number } {
  const tokens: Token[] = [];
  let indent = /^ */.exec(line)?.[0].length ?? 0;
  let rest = line.slice(indent);
  for (let marker = /^-(\s+|$)/.exec(rest); marker; marker = /^-(\s+|$)/.exec(rest)) {
    tokens.push({ indent, key: "-", value: "" });
    indent += marker[0].length || 1;
    rest = rest.slice(marker[0].length);
  }
  const found = KEY.exec(rest);
  if (found) {
    const [, key = "", value = ""] = found;
    tokens.push({ indent, key: unquote(key), value });
    rest = value;
  }
  return { tokens, rest, indent };
}

function unquote(text: string): string {
  return /^(["']).*\1$/.test(text) ? text.slice(1, -1) : text.trim();
}

/** Return the place at a column of a line, both from 0. */
export function placeAt(lines: readonly string[], line: number, column: number): Place {
  const prefix = (lines[line] ?? "").slice(0, column);
  const { tokens, rest, indent } = readLine(prefix);
  const last = tokens[tokens.length - 1];
  const isValue = last !== undefined && last.key !== "-";
  const path: string[] = [];
  const siblings = new Map<string, string>();
  const level = isValue ? last.indent : indent;
  const outer: { below: number; action: string }[] = [];
  let current = level;
  const climb = (token: Token) => {
    const isParent = token.indent < current || (token.indent === current && path[0] === "-" && token.key !== "-");
    if (isParent) {
      path.unshift(token.key);
      current = token.indent;
    } else if (token.indent === level && current === level && token.key !== "-") {
      siblings.set(token.key, token.value);
    } else if (token.indent === current && token.key === "action") {
      outer.push({ below: path.length, action: token.value });
    }
  };
  for (const token of tokens.slice(0, isValue ? -1 : undefined).reverse()) climb(token);
  const isItemStart = tokens.some(({ key }) => key === "-");
  for (let above = line - 1; above >= 0 && (current > 0 || path[0] === "-" || !isItemStart); above--) {
    const text = lines[above] ?? "";
    if (!text.trim() || text.trimStart().startsWith("#")) continue;
    for (const token of readLine(text).tokens.reverse()) climb(token);
    if (current === 0 && path.length && path[0] !== "-") break;
  }
  addBelow(lines, line, level, siblings);
  const actions = new Map(outer.map(({ below, action }) => [path.length - below, unquote(action)]));
  const place: Place = { path, key: isValue ? last.key : null, prefix: rest, siblings, actions };
  noteAction(place, path.length, siblings);
  return isValue || /^[[{]/.test(rest) ? inFlow(place) : place;
}

/** Keep the action type of a mapping, if it has one. */
function noteAction({ actions }: Place, depth: number, siblings: Map<string, string>): void {
  const action = siblings.get("action");
  if (action) actions.set(depth, unquote(action));
}

/** Add the keys of the same mapping that follow. */
function addBelow(lines: readonly string[], line: number, level: number, siblings: Map<string, string>): void {
  for (let below = line + 1; below < lines.length; below++) {
    const text = lines[below] ?? "";
    const first = readLine(text).tokens[0];
    if (!text.trim() || !first) continue;
    if (first.indent < level || (first.indent === level && first.key === "-")) return;
    if (first.indent === level) siblings.set(first.key, first.value);
  }
}

interface Frame {
  isMap: boolean;
  key: string | null;
  siblings: Map<string, string>;
}

/** Return the place inside of the brackets and braces that a value begins with. */
function inFlow(place: Place): Place {
  const frames: Frame[] = [];
  let [start, quote] = [0, ""];
  const text = place.prefix;
  const close = (end: number) => {
    const frame = frames[frames.length - 1];
    if (frame?.isMap && frame.key !== null) frame.siblings.set(frame.key, text.slice(start, end).trim());
  };
  for (let index = 0; index < text.length; index++) {
    const character = text[index] as string;
    const frame = frames[frames.length - 1];
    if (quote) {
      if (character === "\\" && quote === '"') index++;
      else if (character === quote) quote = "";
    } else if ((character === '"' || character === "'") && !text.slice(start, index).trim()) quote = character;
    else if ((character === "{" || character === "[") && !text.slice(start, index).trim()) {
      frames.push({ isMap: character === "{", key: null, siblings: new Map() });
      start = index + 1;
    } else if (frame && (character === "}" || character === "]")) {
      close(index);
      frames.pop();
      start = index + 1;
    } else if (frame && character === ",") {
      close(index);
      frame.key = null;
      start = index + 1;
    } else if (frame?.isMap && character === ":" && frame.key === null && /[\s]/.test(text[index + 1] ?? "")) {
      frame.key = unquote(text.slice(start, index).trim());
      start = index + 1;
    }
  }
  const innermost = frames[frames.length - 1];
  if (!innermost) return { ...place, prefix: text.trimStart() };
  const path = [...place.path];
  if (place.key !== null) path.push(place.key);
  frames.forEach((frame, depth) => {
    noteAction(place, path.length, frame.siblings);
    if (!frame.isMap) path.push("-");
    else if (depth < frames.length - 1 && frame.key !== null) path.push(frame.key);
  });
  return { ...place, path, key: innermost.isMap ? innermost.key : null, prefix: text.slice(start).trimStart(), siblings: innermost.siblings };
}

/** Return the type of the trigger in which a line is, "" if it has none yet, or null for a line outside of triggers. */
export function triggerAt(lines: readonly string[], line: number): string | null {
  let first = line;
  while (first >= 0 && !/^[^\s#-]/.test(lines[first] ?? "")) first--;
  if (!/^triggers\s*:/.test(lines[first] ?? "")) return null;
  const isItem = (text: string) => /^\s*-(\s|$)/.test(text);
  const items = lines.slice(first + 1).findIndex(isItem);
  const indent = items < 0 ? 0 : /^ */.exec(lines[first + 1 + items] ?? "")?.[0].length ?? 0;
  const starts = (text: string) => isItem(text) && /^ */.exec(text)?.[0].length === indent;
  let start = line;
  while (start > first && !starts(lines[start] ?? "")) start--;
  let end = line + 1;
  while (end < lines.length && !starts(lines[end] ?? "") && !/^[^\s#-]/.test(lines[end] ?? "")) end++;
  return /(?:^|[\s{,])type\s*:\s*["']?(\w+)/.exec(lines.slice(start, end).join("\n"))?.[1] ?? "";
}
