package main

// checkUsage says what -check does, and what it does not.
const checkUsage = `check the file and those that it names, and open nothing; exit code 1 if there is a fault.
Also checked, as the user that runs this: the directories of the log file, of unix sockets and of
tls.storage exist and are writable; the addresses of listeners are this machine's and free. One in
use is a note, or with -against a fault, unless the other configuration has its port.
Not checked: inherited sockets; whether a unix socket is in use; two listeners that overlap, such as
:80 and 127.0.0.1:80; whether targets, CAs and DNS answer, and whether certificates can be issued;
the contents of tls.storage; free space`
