/** Say whether the element is seen, now and whenever that changes. */
export function watchVisibility(el, tell) {
  let isNear = false;
  const look = () => tell(isNear && document.visibilityState === "visible");
  const observer = new IntersectionObserver(([...entries]) => {
    isNear = entries.at(-1).isIntersecting;
    look();
  });
  observer.observe(el);
  document.addEventListener("visibilitychange", look);
  return () => {
    observer.disconnect();
    document.removeEventListener("visibilitychange", look);
  };
}
