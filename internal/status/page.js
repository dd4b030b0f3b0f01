(() => {
  const box = document.getElementById("live"), note = document.getElementById("note");
  let busy = false;
  box.parentNode.hidden = false;
  setInterval(async () => {
    const old = document.getElementById("now");
    if (busy || !box.checked || document.hidden || !getSelection().isCollapsed || old.contains(document.activeElement)) return;
    busy = true;
    try {
      const answer = await fetch(location.href, {headers: {Accept: "text/html"}, signal: AbortSignal.timeout(10000)});
      if (!answer.ok) throw new Error("status " + answer.status);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("now");
      if (next) old.replaceWith(next);
      note.textContent = "";
    } catch (e) {
      note.textContent = "not refreshed: no answer from the proxy";
    }
    busy = false;
  }, 5000);
})();
