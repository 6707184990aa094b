<?php
// Answers, and notes the id of each request in the file IDS.
file_put_contents($_SERVER['IDS'], ($_SERVER['HTTP_X_ID'] ?? '-') . "\n", FILE_APPEND);
header('Content-Type: text/plain');
echo "ok\n";
