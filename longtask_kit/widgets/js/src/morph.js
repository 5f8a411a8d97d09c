// The open block is drawn again with each piece of text; what has not changed stays, with a reader's
// selection and scrolling in it.

/** Make the children of `old` those of `fresh`, touching only what differs. */
export function morphChildren(old, fresh) {
  const wanted = [...fresh.childNodes];
  wanted.forEach((node, at) => {
    const there = old.childNodes[at];
    if (!there) old.append(node);
    else morph(there, node);
  });
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
}

/** Make one node what another is; returns the node that then stands there. */
export function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return old;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.nodeType !== Node.ELEMENT_NODE) {
    old.replaceWith(fresh);
    return fresh;
  }
  if (old.className !== fresh.className) old.className = fresh.className;
  if (old.namespaceURI !== "http://www.w3.org/1999/xhtml" || old.hasAttribute("href")) {
    old.replaceWith(fresh); // formulas and links are drawn anew
    return fresh;
  }
  morphChildren(old, fresh);
  return old;
}
