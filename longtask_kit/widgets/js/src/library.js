// A library that the whole page shares, while each output can ask only its own kernel for it.

/**
 * The library under `key` of `page`, asked for with `request` unless somebody else's request is
 * under way; when that fails, its kernel has gone, and each who waited for it asks in turn.
 */
export async function shareLibrary(page, key, request) {
  while (page[key]) {
    try {
      return await page[key];
    } catch {
      // cleared below: the next in line asks
    }
  }
  page[key] = request().catch((error) => {
    delete page[key];
    throw error;
  });
  return page[key];
}

/** A promise, given up after a time: nobody answers for a kernel that is dead. */
export function giveUpAfter(timeoutMs, promise) {
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
  });
  return Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}
