// Emphasis beside an emoji, `**So!**🎉`. CommonMark counts symbols as punctuation, and markdown-it does
// so, but it looks at the halves of a character: to it an emoji is none. The saved card's parser has whole ones.

/** The markdown-it plugin. */
export function flankRule(md) {
  const { isMdAsciiPunct, isPunctChar, isWhiteSpace } = md.utils;
  const isPunct = (sign) => isMdAsciiPunct(sign.codePointAt(0)) || isPunctChar(sign);
  const isSpace = (sign) => isWhiteSpace(sign.codePointAt(0));
  md.inline.State = class extends md.inline.State {
    scanDelims(start, canSplitWord) {
      let end = start;
      while (end < this.posMax && this.src[end] === this.src[start]) end += 1;
      // The beginning and the end of the line are as blanks.
      const before = /(?:[\ud800-\udbff][\udc00-\udfff]|[^])$/.exec(this.src.slice(Math.max(0, start - 2), start))?.[0] ?? " ";
      const after = end < this.posMax ? String.fromCodePoint(this.src.codePointAt(end)) : " ";
      const isLeft = !isSpace(after) && (!isPunct(after) || isSpace(before) || isPunct(before));
      const isRight = !isSpace(before) && (!isPunct(before) || isSpace(after) || isPunct(after));
      return {
        can_open: isLeft && (canSplitWord || !isRight || isPunct(before)),
        can_close: isRight && (canSplitWord || !isLeft || isPunct(after)),
        length: end - start,
      };
    }
  };
}
