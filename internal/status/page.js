(() => {
  const box = document.getElementById("live"), note = document.getElementById("note");
  let busy = false;
  box.parentNode.hidden = false;
  setInterval(async () => {
    const old = document.getElementById("now");
    if (busy || !box.checked || document.hidden || !getSelection().isCollapsed || old.contains(document.activeElement)) return;
    busy = true;
    let why = "no answer from the proxy";
    try {
      const answer = await fetch(location.href, {headers: {Accept: "text/html"}, signal: AbortSignal.timeout(10000)});
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("now");
      if (!answer.ok) why = "the response has status " + answer.status;
      else if (!next) why = "the response is another page; load this one again";
      else why = "", old.replaceWith(next);
    } catch {}
    note.textContent = why && "not refreshed: " + why;
    busy = false;
  }, 5000);
})();
